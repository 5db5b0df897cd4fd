#include "expression.hpp"

namespace underway::pg {

bool executor_is_hooked() {
  return ExecutorStart_hook != nullptr || ExecutorRun_hook != nullptr ||
         ExecutorFinish_hook != nullptr || ExecutorEnd_hook != nullptr;
}

Expr* only_expression(const CachedPlan* plan) {
  const PlannedStmt* statement = linitial_node(PlannedStmt, plan->stmt_list);
  const Plan* top = statement->planTree;
  if (statement->queryId != 0 || statement->commandType != CMD_SELECT ||
      statement->subplans != NIL || !IsA(top, Result) || outerPlan(top) != nullptr ||
      top->initPlan != NIL || top->qual != NIL ||
      reinterpret_cast<const Result*>(top)->resconstantqual != nullptr ||
      list_length(top->targetlist) != 1) {
    return nullptr;
  }
  return linitial_node(TargetEntry, top->targetlist)->expr;
}

expression::expression() : executor_(CreateExecutorState()) {}

Datum expression::value(Expr* of, ParamListInfo parameters, bool* is_null) {
  ExprContext* context = GetPerTupleExprContext(executor_);
  context->ecxt_param_list_info = parameters;
  MemoryContext before = MemoryContextSwitchTo(memory());
  ExprState* state = ExecInitExpr(of, nullptr);
  MemoryContextSwitchTo(before);
  const Datum value = ExecEvalExprSwitchContext(state, context, is_null);
  CHECK_FOR_INTERRUPTS();  // as the executor would, looking for another row
  return value;
}

void expression::close() { FreeExecutorState(executor_); }

}  // namespace underway::pg
