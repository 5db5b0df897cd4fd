// External workers: clients that dequeue by SQL, and those that sleep until there is something to
// dequeue. Runs in: any backend. Error discipline: entries are boundaries; wake_external is
// noexcept. Invariant: as in await.hpp: register, look, sleep; commit, look at who is registered.
#pragma once

#include "shared.hpp"

namespace underway {

struct work_waiter {
  static constexpr int max_queues = 16;
  std::atomic<int> proc_plus_one;  // 0: free
  std::atomic<Oid> database;
  std::atomic<bool> told;          // woken for a task, and has not looked yet
  std::atomic<TimestampTz> until;  // sleeps until then at most (real time)
  std::atomic<int> count;
  int queues[max_queues];
};

// Wakes up to `wanted` of those who wait for the queue (0: for any).
void wake_external(Oid database, int queue_id, int wanted) noexcept;
// Wakes those who wait for the queue and sleep longer than until `at` (of the test clock): they set
// their timers anew.
void wake_later_than(Oid database, int queue_id, TimestampTz at) noexcept;

}  // namespace underway
