// Pools: how many workers each role of this database has, and who gives way when there are not
// enough. Runs in: coordinators; make_room_for_coordinator() in the launcher. Error discipline:
// throws pg::error. Invariant: a pool grows only while it has work that is due and nobody who has
// fewer workers, or has had none for longer, starves. Who was given a place keeps it for a turn (1
// s), since the start of a process costs more than many a task.
#pragma once

#include "queues.hpp"
#include "slots.hpp"

namespace underway::pool {

// Wakes or starts a worker for each role that has due work. Returns when to look again by itself
// (real time), DT_NOEND: never.
TimestampTz fit(database_entry* db, queue_list& queues);

// Workers that ended before they were connected; frees their slots. To be called at each turn.
void look_after_starts(database_entry* db);

// There is no background worker slot for one more coordinator: whoever has most makes room. Memory
// only.
void make_room_for_coordinator() noexcept;

// Asks every worker of the database to leave at its next end of a task, or at once.
void retire_all(Oid database) noexcept;
void terminate_all(Oid database) noexcept;

}  // namespace underway::pool
