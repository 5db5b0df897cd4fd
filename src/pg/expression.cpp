#include "expression.hpp"

namespace underway::pg {

namespace {

uint64 functions = 0;  // grows when one has changed

void watch_functions() {
  if (functions == 0) {
    functions = 1;
    CacheRegisterSyscacheCallback(
        PROCOID, [](Datum, int, uint32) { functions++; }, 0);
  }
}

bool is_watched(const PlannedStmt* statement) {
  return ExecutorStart_hook != nullptr || ExecutorRun_hook != nullptr ||
         ExecutorFinish_hook != nullptr || ExecutorEnd_hook != nullptr || statement->queryId != 0;
}

// Null: it is more than that.
Expr* only_expression(const PlannedStmt* statement) {
  const Plan* plan = statement->planTree;
  if (statement->commandType != CMD_SELECT || statement->subplans != NIL || !IsA(plan, Result) ||
      outerPlan(plan) != nullptr || plan->initPlan != NIL || plan->qual != NIL ||
      reinterpret_cast<const Result*>(plan)->resconstantqual != nullptr ||
      list_length(plan->targetlist) != 1) {
    return nullptr;
  }
  return linitial_node(TargetEntry, plan->targetlist)->expr;
}

}  // namespace

bool expression::is_of(const CachedPlan* plan, uint64 made, MemoryContext memory) {
  const PlannedStmt* statement = linitial_node(PlannedStmt, plan->stmt_list);
  if (is_watched(statement)) {
    return false;
  }
  if (state_ != nullptr && made == made_ && functions == functions_) {
    return true;
  }
  Expr* only = only_expression(statement);
  if (only == nullptr) {
    return false;
  }
  watch_functions();
  functions_ = functions;
  MemoryContext before = MemoryContextSwitchTo(memory);
  if (executor_ == nullptr) {
    executor_ = CreateExecutorState();
  }
  MemoryContextSwitchTo(executor_->es_query_cxt);
  state_ = ExecInitExpr(only, nullptr);
  MemoryContextSwitchTo(before);
  made_ = made;
  return true;
}

Datum expression::value(ParamListInfo parameters, bool* is_null) {
  ExprContext* context = GetPerTupleExprContext(executor_);
  ResetExprContext(context);
  context->ecxt_param_list_info = parameters;
  return ExecEvalExprSwitchContext(state_, context, is_null);
}

}  // namespace underway::pg
