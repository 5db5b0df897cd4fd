// Retry: what an attempt that failed leads to, recorded in a transaction of its own.
// Runs in: workers. Error discipline: throws pg::error. Invariant: a failure of an attempt that is
// no longer the task's changes nothing.
#pragma once

#include "context.hpp"
#include "pg/error.hpp"

namespace underway {

void record_failure(const claimed_task& task, const pg::error& error, const char* notices);

// To be run again at once, as no failure: deadlocks and serialization failures.
bool is_transient(int sqlstate) noexcept;

}  // namespace underway
