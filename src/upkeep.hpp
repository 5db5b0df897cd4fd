// Upkeep: surveys of queues that nothing is known of, expiry, tasks of dropped queues, retention.
// Runs in: coordinators. Error discipline: throws pg::error. Invariant: each piece of work is
// bounded and has a timer of its own.
#pragma once

#include "queues.hpp"

namespace underway::upkeep {

// Is any queue at home here? Without one nothing is to be kept up, and a restore may be about to
// load our tables.
bool has_home(queue_list& queues) noexcept;

// Fills the marks of queues that know nothing.
void survey(queue_list& queues);
// Does what is due; returns when the next is (real time).
TimestampTz run(database_entry* db, queue_list& queues);

}  // namespace underway::upkeep
