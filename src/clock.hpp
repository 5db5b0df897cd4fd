// The clock that everything goes by, and ids made from it.
// Runs in: every process. Error discipline: noexcept. Invariant: ids go up within a process; they
// come from the real clock, never from the test clock, so that they are unique whatever a test
// does. What a transaction tells others when it ends goes by clock_now(), never by its own clock.
#pragma once

#include "shared.hpp"

namespace underway {

inline TimestampTz clock_now() noexcept { return GetCurrentTimestamp() + shared->clock_offset; }
// What SQL goes by: the same, moved on by run_inline for the rest of this transaction.
TimestampTz transaction_clock() noexcept;
void begin_transaction_clock() noexcept;  // it may be moved; of no consequence by itself
bool has_transaction_clock() noexcept;
// Never back. Inside a transaction.
void move_transaction_clock(TimestampTz to) noexcept;
void install_clock_callbacks();

pg_uuid_t new_id() noexcept;
// No id that this transaction has made is less.
pg_uuid_t least_own_id() noexcept;

}  // namespace underway
