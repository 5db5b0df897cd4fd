// Dequeue: takes the next due tasks of one queue and priority, in a transaction of its own that
// commits before any work starts. Runs in: workers. Error discipline: throws pg::error. Invariant:
// the marks' protocol (marks.hpp).
#pragma once

#include "claim.hpp"
#include "queues.hpp"

namespace underway {

struct claim_result {
  int count = 0;      // tasks to run, in `tasks`
  bool full = false;  // there may be more
};

// The claim itself, inside somebody's transaction and as the extension's owner; allocates in
// `memory`.
claim_result claim_tasks(const claim_source& from, int priority, int max_tasks,
                         MemoryContext memory, claimed_task* tasks);

// A worker's. Tasks and what they point at are allocated in `memory`. With a handler that is gone
// or forbidden nothing is taken: see q->why. is_current is asked last: false takes everything back,
// since the queue was paused or changed meanwhile.
claim_result dequeue(queue_info* q, int priority, int max_tasks, MemoryContext memory,
                     claimed_task* tasks, bool (*is_current)());

// The same in the transaction that ends a worker's last task, which saves a commit: of its queue,
// and no suspect.
int claim_ahead(queue_info* q, int priority, int max_tasks, MemoryContext memory,
                claimed_task* tasks);

// Finds out when each priority of a queue is next due, where nothing is known: in one look instead
// of a claim for each. False: something became pending meanwhile, and some are still unknown.
bool survey(const queue_info& q);
// The same inside somebody's transaction and as the extension's owner.
void survey_now(queue_entry* entry, int queue_id);

// Hands back tasks that were claimed by this process and not begun.
void give_back(const claimed_task* tasks, int n);

}  // namespace underway
