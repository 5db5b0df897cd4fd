// Waiting for the end of a task: underway.await and underway.wait_for. Sleeps on a latch; a
// finishing commit sets it. Runs in: any backend. Error discipline: entries are boundaries;
// wake_awaiters is noexcept. Invariant: a waiter registers, then looks, then sleeps; who finishes
// is visible, then reads the waiters: no wake-up is lost.
#pragma once

#include "shared.hpp"

namespace underway {

struct awaiter {
  std::atomic<int> proc_plus_one;  // 0: free
  std::atomic<Oid> database;
  pg_uuid_t id;
};

// ids null: any task of this database.
void wake_awaiters(Oid database, const pg_uuid_t* ids, int n) noexcept;

}  // namespace underway
