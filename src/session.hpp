// The session that a handler finds: as after DISCARD ALL, plus its queue's settings.
// Runs in: workers; apply_settings also in run_inline. Error discipline: throws pg::error.
// Invariant: nothing that one task did to the session reaches the next.
#pragma once

#include "pg/error.hpp"

namespace underway {

// In a transaction of its own, since what an aborted transaction resets is set again by its abort.
// settings may be null.
void renew_session(Jsonb* settings);
// After the last of several tasks: a worker that sleeps keeps no temporary table, and no advisory
// lock that others wait for.
void clean_session();

// The settings of a queue for the present nest level of the configuration. Inside pg::call.
void apply_settings(Jsonb* settings, Oid role);

}  // namespace underway
