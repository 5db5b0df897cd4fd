// The plan of a statement that is one expression, evaluated as such, as PL/pgSQL does with its
// simple expressions (pl_exec.c): a portal and an executor for one row take longer than a small
// function. Runs in: workers, inside pg::call. Error discipline: server code,
// may raise; trivially destructible. Invariants: whoever watches statements (an executor hook,
// query ids) is not passed by; a function that is altered is called as it is then.
#pragma once

#include "server.hpp"

namespace underway::pg {

class expression {
 public:
  // Whether a plan can be evaluated so, with what is kept in `memory`; `made` is another number for
  // each plan.
  bool is_of(const CachedPlan* plan, uint64 made, MemoryContext memory);
  // By the active snapshot. What it points at stays until the next one.
  Datum value(ParamListInfo parameters, bool* is_null);

 private:
  EState* executor_ = nullptr;
  ExprState* state_ = nullptr;
  uint64 made_ = 0;
  uint64 functions_ = 0;  // as they were then
};

}  // namespace underway::pg
