// NOTICEs of a handler, as its client would have got them: the first 8 kB stand in the attempt.
// Runs in: workers. Error discipline: noexcept; memory that cannot be had ends the capture, not the
// task. Invariant: between start and stop the process sends its messages to us instead of to a
// client, and nothing else is changed.
#pragma once

#include "pg/server.hpp"

namespace underway {

void start_notices() noexcept;
// Null when there were none; valid until the next start.
const char* stop_notices() noexcept;

}  // namespace underway
