#include "held.hpp"

#include "dequeue.hpp"

#include <algorithm>

namespace underway {

namespace {

constexpr int overdue_ms =
    50;  // after this long with one task, the others that it holds are given back

TimeoutId overdue_timer;
bool holding = false;

// In a signal handler.
void tell_overdue() {
  my_slot->overdue = true;
  my_database->poked = true;  // where something else makes it wait, that resets its latch
  if (my_database->coordinator_pid != 0) {
    pg::set_latch_of(my_database->coordinator_proc);
  }
}

}  // namespace

void prepare_to_hold() { overdue_timer = RegisterTimeout(USER_TIMEOUT, tell_overdue); }

int reserve_places(const queue_info& q, int n) noexcept {
  SpinLockAcquire(&q.entry->mutex);
  if (q.concurrency > 0) {
    n = std::min(n, q.concurrency - tasks_held(MyDatabaseId, q.id));
  }
  if (n > 0) {
    my_slot->queue_id = q.id;
    my_slot->tasks = n;
  }
  SpinLockRelease(&q.entry->mutex);
  return std::max(n, 0);
}

void hold(const queue_info& q, const claimed_task* tasks, int n) noexcept {
  SpinLockAcquire(&my_slot->mutex);
  my_slot->begun = q.batch > 1 ? n : 0;  // a batch is begun as a whole
  my_slot->prefetched = n;
  for (int i = 0; i < std::min(n, worker_slot::max_prefetch); i++) {
    my_slot->ids[i] = tasks[i].id;
    my_slot->attempts[i] = tasks[i].attempt;
  }
  my_slot->overdue = false;
  my_slot->tasks = n;
  SpinLockRelease(&my_slot->mutex);
  holding = true;
}

void hold_handed() noexcept { holding = true; }

bool holds_tasks() noexcept { return holding; }

bool begin_held(int i) noexcept {
  SpinLockAcquire(&my_slot->mutex);
  // What somebody wants back does not begin, be he ever so late: it may have been cancelled.
  const bool mine = i < my_slot->prefetched && !my_slot->overdue;
  if (mine) {
    my_slot->begun = i + 1;
  }
  const bool more = mine && i + 1 < my_slot->prefetched;
  SpinLockRelease(&my_slot->mutex);
  if (more) {
    enable_timeout_after(overdue_timer, overdue_ms);
  } else {
    disable_timeout(overdue_timer, false);
  }
  return mine;
}

void give_back_unbegun(const claimed_task* tasks) {
  disable_timeout(overdue_timer, false);
  SpinLockAcquire(&my_slot->mutex);
  const int begun = my_slot->begun;
  const int left = my_slot->prefetched - begun;
  my_slot->prefetched = begun;
  SpinLockRelease(&my_slot->mutex);
  if (left > 0) {
    give_back(tasks + begun, left);
  }
}

void hold_nothing() noexcept {
  SpinLockAcquire(&my_slot->mutex);
  my_slot->overdue = false;
  my_slot->prefetched = my_slot->begun;
  my_slot->tasks = 0;
  SpinLockRelease(&my_slot->mutex);
  holding = false;
}

}  // namespace underway
