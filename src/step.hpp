// Steps of workflows: what a task that is one runs, and how it ends: with what comes next, claimed
// by this worker in the same commit. Runs in: workers, and run_inline. Error discipline: throws
// pg::error. Invariant: definitions are read before the handler's transaction begins, which touches
// none of our tables until the handler has ended.
#pragma once

#include "complete.hpp"

namespace underway {

// What a task of a workflow's queue runs. Read once for each version and step: a version never
// changes.
struct step_function {
  const char* schema;  // null: nothing is run; finishing it does all there is to do
  const char* name;
  const char* maker;  // whose it was when it was set
  bool takes_input;
  bool set;    // its rows are the output
  bool alone;  // a child of a map, an undo, finally: it may not say what comes next
  // What resolve() found last: for this owner, as the catalogs were then.
  Oid resolved;
  Oid resolved_for;
  uint64 resolved_at;
};

// In a transaction of its own when it has to read and none is open. Raises when there is no such
// step.
step_function* find_step(const queue_info* q, const claimed_task& task);
// Whoever reads versions that were not committed forgets them: another may get the same number.
void forget_steps() noexcept;

// The oid, found anew when functions, schemas or roles have changed; raises 42883 or 42501.
Oid resolve(const queue_info* q, step_function* f);

// What follows a step.
struct following {
  bool wanted = false;     // may this worker go on with the run?
  bool found = false;      // it does:
  claimed_task task = {};  // allocated in `memory`
  MemoryContext memory = nullptr;
  const char* look = nullptr;  // to look at this map of the run after the commit
};

// The fence of a step: raises UW001 when the attempt is no longer the task's.
void complete_step(const queue_info* q, const claimed_task& task, const finished_task& result,
                   following* next);

// After the commit (in run_inline: the subtransaction): is the map that the task was a child of
// through?
void look_at_map(const claimed_task& task, const char* map);

}  // namespace underway
