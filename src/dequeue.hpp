// Dequeue: takes the next due tasks of one queue and priority, in a transaction of its own that commits before any work starts.
// Runs in: workers. Error discipline: throws pg::error. Invariant: the marks' protocol (marks.hpp).
#pragma once

#include "context.hpp"
#include "queues.hpp"

namespace underway {

struct claim_result {
  int count = 0;        // tasks to run, in `tasks`
  bool full = false;    // as many as asked for: there may be more
};

// Tasks and what they point at are allocated in `memory`. With a handler that is gone or forbidden nothing is taken: see q->why.
claim_result dequeue(queue_info* q, int priority, int max_tasks, MemoryContext memory, claimed_task* tasks);

// Hands back tasks that were claimed by this process and not begun.
void give_back(const claimed_task* tasks, int n);

}  // namespace underway
