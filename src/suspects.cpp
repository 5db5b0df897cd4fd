#include "suspects.hpp"

#include "settings.hpp"
#include "slots.hpp"

namespace underway {

namespace {

constexpr int alone = -1;
bool entered = false;

bool needs_all(int crashes) noexcept { return crashes >= settings::max_crashes - 1; }

}  // namespace

int suspects_allowed(queue_entry* q) noexcept {
  if (shared->suspects == 0) {
    return INT_MAX;
  }
  // Published before the look: whoever leaves after it finds this queue.
  q->passed_over = true;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const int running = shared->suspects;
  return running == 0 ? INT_MAX : running == alone ? 0 : settings::max_crashes - 2;
}

bool enter_suspect(int crashes) noexcept {
  int running = shared->suspects;
  do {
    if (running == alone || (needs_all(crashes) && running > 0)) {
      return false;
    }
  } while (
      !shared->suspects.compare_exchange_weak(running, needs_all(crashes) ? alone : running + 1));
  entered = true;
  return true;
}

void leave_suspect() noexcept {
  if (!entered) {
    return;
  }
  entered = false;
  int running = shared->suspects;
  while (!shared->suspects.compare_exchange_weak(running, running == alone ? 0 : running - 1)) {
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (int n = 0; n < shared->queues_size; n++) {
    queue_entry* q = shared->queues() + n;
    if (!OidIsValid(q->database) || !q->passed_over.exchange(false)) {
      continue;
    }
    lower_to_now(q);
    database_entry* db = find_database(q->database, false);
    if (wake_idle(q->database, q->role, 1) == 0 && db != nullptr) {
      poke_coordinator(db);
    }
  }
}

}  // namespace underway
