// Places where a test can hold one of our processes: it waits there while another session holds an
// advisory lock; and what a measurement can leave out. Runs in: every process; costs one read of
// shared memory when no test has armed it. Error discipline: server code, may raise.
#pragma once

#include "shared.hpp"

namespace underway {

// The second key of pg_advisory_lock(7867, n); also the bit of underway_internal.arm_waitpoints().
enum class waitpoint_id : int {
  scan_registered = 1,
  claimed = 2,
  handler_done = 3,
  stale_leases = 4,
  surveyed = 5,
  give_back = 6,
  finished = 7,
  look = 8,
  chained = 9,
  unheard = 10,  // nobody waits: while armed, nothing that is enqueued is told at commit
  obeyed = 11,
  scanning = 12,
  handed = 13,
  fitted = 14
};

inline bool is_armed(waitpoint_id id) noexcept {
  return (shared->waitpoints & (uint64{1} << static_cast<int>(id))) != 0;
}

void reach_waitpoint(waitpoint_id id);

inline void waitpoint(waitpoint_id id) {
  if (is_armed(id)) {
    reach_waitpoint(id);
  }
}

}  // namespace underway
