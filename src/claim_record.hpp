// Which tasks a worker has in hand, in the table of claims: how they are found when it is gone.
// Runs in: workers and whoever hands one a task, in the transaction that claims; inside pg::call.
// Error discipline: server code, may raise. Invariant: no transaction that leaves a task in
// progress with this worker commits without its record; that a task ended is not recorded.
#pragma once

#include "context.hpp"

namespace underway {

// These are what it has, and what the coordinator took from it and has not given back yet.
void record_claim(const claimed_task* tasks, int n);

// Beside those, the next step of the run that it has in hand.
void record_chained(const pg_uuid_t& id);

// By who claims it for a worker that has nothing in hand. False: somebody has the row or the table
// locked.
bool record_handed(worker_slot* slot, const pg_uuid_t& id);
// That worker goes on from there.
void take_handed_record(const pg_uuid_t& id);

}  // namespace underway
