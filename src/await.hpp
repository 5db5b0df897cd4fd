// Waiting for the end of a task: underway.await and underway.wait_for. Sleeps on a latch; a
// finishing commit sets it. Runs in: any backend. Error discipline: entries are boundaries;
// wake_awaiters is noexcept. Invariant: a waiter registers, then looks, then sleeps; who finishes
// is visible, then reads the waiters: no wake-up is lost.
#pragma once

#include "shared.hpp"

#include <bitset>

namespace underway {

struct awaiter {
  std::atomic<int> proc_plus_one;  // 0: free
  std::atomic<Oid> database;
  pg_uuid_t id;
};

// The tasks that a transaction ends, however many. Ids end in random bits: of those who wait for
// others it wakes one in 4096 for each.
class ended_tasks {
 public:
  void add(const pg_uuid_t& id) noexcept {
    ended_.set(place_of(id));
    any_ = true;
  }
  bool any() const noexcept { return any_; }
  bool may_hold(const pg_uuid_t& id) const noexcept { return ended_.test(place_of(id)); }
  void clear() noexcept {
    if (any_) {
      *this = {};
    }
  }

 private:
  static constexpr std::size_t places = 4096;
  static std::size_t place_of(const pg_uuid_t& id) noexcept {
    return (id.data[14] * std::size_t{256} + id.data[15]) % places;
  }

  bool any_ = false;
  std::bitset<places> ended_;
};

// ended null: any task of this database.
void wake_awaiters(Oid database, const ended_tasks* ended) noexcept;

}  // namespace underway
