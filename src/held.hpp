// What this worker holds: tasks that were claimed for it and have not ended, as its slot shows them
// to everybody. Runs in: workers. Error discipline: noexcept, memory and a timer only;
// prepare_to_hold() is server code, give_back_unbegun() throws pg::error. Invariant: who takes a
// task that has not begun, this worker to begin it or to give it back or the coordinator to give it
// back, takes it under the slot's lock, so that one of them does.
#pragma once

#include "context.hpp"
#include "queues.hpp"

namespace underway {

// Registers the timer that has what was not begun given back while one task takes long.
void prepare_to_hold();

// Takes the place of `n` tasks in the slot, which is what a limit on concurrency counts; 0: the
// limit is reached.
int reserve_places(const queue_info& q, int n) noexcept;

void hold(const queue_info& q, const claimed_task* tasks, int n) noexcept;
// The one that whoever has handed it over has written into the slot.
void hold_handed() noexcept;
bool holds_tasks() noexcept;

// False: it is not this worker's to begin any more.
bool begin_held(int i) noexcept;

// What was not begun, since this worker is not to begin it. The coordinator cannot take it any
// more: given back twice, an attempt that somebody else has begun meanwhile would be taken back.
void give_back_unbegun(const claimed_task* tasks);
void hold_nothing() noexcept;

}  // namespace underway
