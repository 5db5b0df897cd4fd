// A coordinator: one per database that has the extension and something to do. Timers, reclaim,
// expiry, retention; asks for workers. Runs in: itself, as the bootstrap superuser, only our own
// SQL; started by the launcher. Error discipline: a boundary; an error ends the process and the
// launcher starts another. Invariant: everything it knows can be read again; nothing waits for it
// but time.
#pragma once

#include "shared.hpp"

namespace underway {

// entry: number of the database entry. False: no background worker slot is free.
bool start_coordinator(database_entry* db, int entry, BackgroundWorkerHandle** handle);

}  // namespace underway
