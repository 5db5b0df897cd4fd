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

struct following;  // step.hpp

// In the order given; all of one queue. What follows a step is asked for of single tasks alone;
// else null.
void complete(const queue_info* q, const claimed_task* tasks, const finished_task* results, int n,
              following* next);

// UW001.
void raise_lost();

}  // namespace underway
