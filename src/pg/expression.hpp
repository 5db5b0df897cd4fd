// The plan of a statement that is one expression, evaluated as such, as PL/pgSQL does with its
// simple expressions (pl_exec.c): a portal and the executor's nodes for one row take longer than a
// small function. Runs in: workers, inside pg::call. Error discipline: server code, may raise;
// trivially destructible. Invariants: whoever watches statements (an executor hook, query ids) is
// not passed by; made anew for each call, since what it knows of functions is not told of changes.
#pragma once

#include "server.hpp"

namespace underway::pg {

// Whether an extension watches what is executed.
bool executor_is_hooked();

// Null: it is more than that, or has a query id.
Expr* only_expression(const CachedPlan* plan);

class expression {
 public:
  expression();
  // For parameters, and whoever works with the value.
  MemoryContext memory() const { return executor_->es_query_cxt; }
  // By the active snapshot.
  Datum value(Expr* of, ParamListInfo parameters, bool* is_null);
  void close();  // an error leaves that to the transaction's end

 private:
  EState* executor_;
};

}  // namespace underway::pg
