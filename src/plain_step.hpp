// The end of a plain step, and the begin of the next one or the end of the run, without a
// statement: what finish_step() (78_finish_step.sql) and those that it calls do, for runs about
// which nothing is special. Runs in: workers, and run_inline, in the step's transaction, as the
// extension's owner. Error discipline: throws pg::error. Invariant: what is special leaves all as
// it was, but for the lock on the run's row, and is left to the statement, which decides the same
// for plain steps.
#pragma once

#include "complete.hpp"

namespace underway {

// What a version says of a step that ends plainly: each step has one before and one after it, and
// neither this one nor the next waits, fans out, asks a condition or goes to another queue.
struct plain_end {
  bool possible;
  bool to_undo;       // its result says so
  const char* next;   // null: it is the last one, and nothing runs finally
  bool templated;     // what the next one gets is made by its template
  int priority;       // of the next one; -1: the run's
  Jsonb* retry;       // or null
  Interval* timeout;  // or null
  int max_attempts;   // 0: the queue's
};

// The fence is in it: raises UW001. False: something is special.
bool end_plainly(const queue_info* q, const claimed_task& task, const finished_task& result,
                 const plain_end& how, struct following* next);

}  // namespace underway
