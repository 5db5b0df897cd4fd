// Upkeep: surveys of queues that nothing is known of, expiry, tasks of dropped queues, retention.
// Runs in: coordinators. Error discipline: throws pg::error. Invariant: each piece of work is bounded and has a timer of its own.
#pragma once

#include "queues.hpp"

namespace underway::upkeep {

// Fills the marks of queues that know nothing.
void survey(queue_list& queues);
// Does what is due; returns when the next is (real time).
TimestampTz run(database_entry* db, queue_list& queues);

}  // namespace underway::upkeep
