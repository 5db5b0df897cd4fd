// Complete: the finishing statements, and the fence: a task that is no longer this attempt's raises
// UW001, and the handler's effects go with it. Runs in: workers, inside the executing transaction.
// Error discipline: throws pg::error.
#pragma once

#include "context.hpp"
#include "handler.hpp"
#include "queues.hpp"

namespace underway {

struct finished_task {
  result outcome;
  const char* notices;
};

// In the order given; all of one queue.
void complete(const queue_info* q, const claimed_task* tasks, const finished_task* results, int n);

}  // namespace underway
