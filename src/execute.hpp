// Execute: the handler, then, as the last act of its transaction, the statement that fences and
// finishes. Runs in: workers. Error discipline: the one place that catches: error -> transaction
// gone -> a new one records the failure. Throws pg::error only when that recording fails too.
// Invariant: none of our tables is touched before the handlers have ended.
#pragma once

#include "context.hpp"
#include "queues.hpp"

namespace underway {

// Each task ends, is pending again, or is no longer ours. begin() says, before each task that is
// not part of a batch, whether it is still this worker's to begin. Registers the timer that ends a
// handler which goes on after its timeout.
void prepare_to_execute();

// may_go_on: may the worker take the next step of a run in the commit of the one before?
// claim_ahead: called in the transaction that ends the last task, so that what the worker does next
// is claimed in its commit; forget_ahead: it did not commit.
struct execution {
  bool (*begin)(int i);
  bool (*may_go_on)();
  void (*claim_ahead)();
  void (*forget_ahead)();
};
void execute(queue_info* q, claimed_task* tasks, int n, MemoryContext memory, const execution& how);

}  // namespace underway
