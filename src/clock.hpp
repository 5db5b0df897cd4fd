// The clock that everything goes by, and ids made from it.
// Runs in: every process. Error discipline: noexcept. Invariant: ids go up within a process; they
// come from the real clock, never from the test clock, so that they are unique whatever a test
// does.
#pragma once

#include "shared.hpp"

namespace underway {

inline TimestampTz clock_now() noexcept { return GetCurrentTimestamp() + shared->clock_offset; }
pg_uuid_t new_id() noexcept;

}  // namespace underway
