// Hand-over: a transaction that has enqueued one task claims it for an idle worker, as the last
// thing before its commit. So one flush makes the task and its claim known, where a worker that is
// only woken has to wait for one of its own before it may begin (promise 4). Runs in: the backend
// that enqueues, and the worker that it hands the task to. Error discipline: offer() and
// hand_over() are server code and may raise; end_hand_over() runs at the end of a transaction:
// noexcept, allocates nothing. Invariant: a worker is reserved from before the claim is written
// until that transaction has ended, and its slot is given to nobody else meanwhile, even when it
// dies.
#pragma once

#include "context.hpp"
#include "marks.hpp"

namespace underway {

// The last task that this transaction has enqueued, whose row stands there. ttl: the queue's, or
// null.
void offer(queue_entry* q, int queue_id, int priority, const row_key& key, const pg::place& at,
           const Interval* ttl);
void forget_offer() noexcept;

// Before the commit of a transaction that has made nothing pending but what it has offered. True:
// that is not pending any more.
bool hand_over();
// When what was claimed is visible and its locks are free, or when it never was.
void end_hand_over(bool committed) noexcept;

// The worker's side. False: nothing was handed to this worker.
bool has_been_handed(handed_task* task) noexcept;

}  // namespace underway
