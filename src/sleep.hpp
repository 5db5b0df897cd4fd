// What the clients' waiting calls share: limits, and sleeping on the latch.
// Runs in: any backend. Error discipline: server code, called inside pg::call.
#pragma once

#include "pg/server.hpp"

namespace underway {

// The timeout that a caller gave, in milliseconds, at most `longest`. Raises for null and for
// negative ones.
int64 checked_timeout(const Interval* timeout, int64 longest);

// Until the latch is set or `end` (real time). False: the time was over already.
bool sleep_until(TimestampTz end);

// Raises where a procedure cannot commit: inside a transaction block or a function (its CallContext
// is atomic; there SPI_commit would return without having committed).
void require_top_level(FunctionCallInfo fcinfo, const char* name, const char* instead);

// The row of a procedure with one INOUT argument of type text; null: NULL.
Datum text_row(FunctionCallInfo fcinfo, const char* value);

}  // namespace underway
