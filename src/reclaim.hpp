// Reclaim: attempts whose process is known to be gone, or that a worker holds and cannot begin, go
// on elsewhere at once. Runs in: coordinators. Error discipline: throws pg::error. Invariant: a
// slot is free again only after its tasks were reclaimed.
#pragma once

#include "shared.hpp"

namespace underway::reclaim {

void earlier_work(database_entry* db);
void dead_workers(database_entry* db);
// Tasks that a worker holds behind one that takes long.
void overdue(database_entry* db);

// External workers that are stale. Returns when to look again (real time).
TimestampTz stale_leases(database_entry* db);
// Maps whose last child was finished by a client, or by a worker that died before it could look.
TimestampTz maps(database_entry* db);
// What was cancelled while in progress: interrupted, then, after the grace, its worker is
// terminated. Returns when to look again.
TimestampTz cancels(database_entry* db);

}  // namespace underway::reclaim
