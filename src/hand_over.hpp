// Hand-over: a transaction that has enqueued one task claims it for an idle worker, as the last
// thing before its commit. So one flush makes the task and its claim known, where a worker that is
// only woken has to wait for one of its own before it may begin (promise 4). Runs in: the backend
// that enqueues, and the worker that it hands the task to. Error discipline: offer() and
// hand_over() are server code and may raise, the latter in the callback before the commit, where no
// frame has a destructor; the others are noexcept and allocate nothing. Invariant: a worker is
// reserved from before anything is written for it until that transaction has ended, and its slot is
// given to nobody else meanwhile, even when it dies.
#pragma once

#include "context.hpp"
#include "marks.hpp"

namespace underway {

// The last task that this transaction has enqueued, whose row stands there. ttl: the queue's, or
// null.
void offer(queue_entry* q, int queue_id, int priority, const row_key& key, const pg::place& at,
           const Interval* ttl);
// It was made in this subtransaction or one below it, which is rolled back. At the end of the
// whole, `from` is below every subtransaction.
void withdraw_offer(SubTransactionId from) noexcept;

// Before the commit of a transaction that has made nothing pending but what it has offered. True:
// that is not pending any more.
bool hand_over();
// When what was claimed is visible and its locks are free, or when it never was.
void end_hand_over(bool committed) noexcept;

// The worker's side, once for each. False: nothing was handed to this worker.
bool receive_handed(handed_task* task) noexcept;
// Somebody counts on this worker.
bool is_promised() noexcept;

}  // namespace underway
