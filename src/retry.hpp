// Retry: what an attempt that failed leads to, recorded when nothing is left of the attempt.
// Runs in: workers, and run_inline. Error discipline: throws pg::error. Invariant: a failure of an
// attempt that is no longer the task's changes nothing.
#pragma once

#include "context.hpp"
#include "pg/error.hpp"

namespace underway {

// In a transaction of its own.
void record_failure(const claimed_task& task, const pg::error& error, const char* notices);
// In the one that is open. Returns the task's new state, allocated in `memory`.
const char* fail_attempt(const claimed_task& task, const pg::error& error, const char* notices,
                         MemoryContext memory);

// To be run again at once, as no failure: deadlocks and serialization failures.
bool is_transient(int sqlstate) noexcept;
inline constexpr int transient_retries = 10;

}  // namespace underway
