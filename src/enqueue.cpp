// Enqueue: one task, in the caller's transaction. As the gateway, but that the usual call runs no
// statement: the queue is known (targets.cpp), and the row goes straight into the table. Runs in:
// any backend. Error discipline: a boundary. Invariant: what is checked, and against what, stands
// in sql/20_enqueue.sql; nothing of a user's is looked up or run as the extension's owner.
#include "clock.hpp"
#include "entry.hpp"
#include "pg/identity.hpp"
#include "pg/insertion.hpp"
#include "pg/statement.hpp"
#include "targets.hpp"
#include "wake.hpp"

namespace underway {

namespace {

pg::statement prepare_task(
    "SELECT due, expires, holder FROM underway_internal.prepare_task($1, $2, $3, $4, $5, $6, $7, "
    "$8, $9, $10, $11, $12, $13)",
    UUIDOID, INT4OID, TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID,
    INTERVALOID, INTERVALOID, INTERVALOID, JSONBOID, JSONBOID);
pg::insertion insert_task("task", "id", "queue_id", "priority", "run_at", "enqueued_at",
                          "expires_at", "enqueued_by", "input", "headers", "key", "group_key",
                          "timeout", "heartbeat", "retry");

// The arguments of underway.enqueue() by number.
enum : int {
  queue,
  input,
  delay,
  run_at,
  priority,
  key,
  group_key,
  ttl,
  timeout,
  heartbeat,
  retry,
  headers,
  arguments
};

struct task {
  pg_uuid_t id;
  TimestampTz now;
  TimestampTz due;
  bool expires;
  TimestampTz expires_at;
  pg_uuid_t holder;  // of the key
};

bool has_options(FunctionCallInfo fcinfo) noexcept {
  for (int n = input + 1; n < arguments; n++) {
    if (!PG_ARGISNULL(n)) {
      return true;
    }
  }
  return false;
}

void prepare(FunctionCallInfo fcinfo, const target& to, task* t) {
  pg::value args[13] = {pg::of(&t->id), pg::of(to.queue_id), pg::of_time(t->now)};
  for (int n = delay; n < arguments; n++) {
    args[n + 1] = pg::of_datum(fcinfo->args[n].value, fcinfo->args[n].isnull);
  }
  prepare_task.run(args, [t](const pg::row& r) {
    t->due = r.time(1);
    t->expires = !r.null(2);
    t->expires_at = t->expires ? r.time(2) : 0;
    t->holder = r.uuid(3);
  });
}

TimestampTz later(TimestampTz from, const Interval* by) {
  return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(from),
                                                 IntervalPGetDatum(by)));
}

void insert(FunctionCallInfo fcinfo, Oid caller, const target& to, const task& t) {
  const auto argument = [fcinfo](int n) {
    return pg::of_datum(fcinfo->args[n].value, fcinfo->args[n].isnull);
  };
  const int urgency = PG_ARGISNULL(priority) ? to.priority : PG_GETARG_INT32(priority);
  const pg::value values[] = {
      pg::of(&t.id),
      pg::of(to.queue_id),
      pg::of_datum(Int16GetDatum(static_cast<int16>(urgency)), false),
      pg::of_time(t.due),
      pg::of_time(t.now),
      pg::of_datum(TimestampTzGetDatum(t.expires_at), !t.expires),
      pg::of_text(GetUserNameFromId(caller, false)),
      PG_ARGISNULL(input)
          ? pg::of_datum(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")), false)
          : argument(input),
      argument(headers),
      argument(key),
      argument(group_key),
      argument(timeout),
      argument(heartbeat),
      argument(retry)};
  insert_task.run(values);
  note_pending(to.queue_id, urgency, {t.due, t.id}, 1);
  if (t.expires) {
    note_expiry(t.expires_at);
  } else if (may_lapse(to)) {
    note_expiry(later(Max(t.due, t.now), &to.ttl));
  }
}

Datum result(const pg_uuid_t& id) {
  auto copy = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
  *copy = id;
  return UUIDPGetDatum(copy);
}

}  // namespace

UNDERWAY_ENTRY(underway_enqueue) {
  const Oid caller = GetUserId();
  target to = {};
  const bool known = pg::call([fcinfo, caller, &to] {
    require_preload();
    PreventCommandIfReadOnly("INSERT");
    pg::lock_first();
    return !PG_ARGISNULL(queue) && known_target(caller, fcinfo->args[queue].value, &to);
  });
  task t = {};
  t.id = t.holder = new_id();
  t.now = t.due = transaction_clock();
  if (!known || has_options(fcinfo)) {
    pg::as_owner owner(false);
    try {
      if (!known) {
        to = find_target(caller, fcinfo->args[queue].value, fcinfo->args[queue].isnull);
      }
      if (has_options(fcinfo)) {
        prepare(fcinfo, to, &t);
      }
    } catch (pg::error& e) {
      e.drop_context();
      throw;
    }
  }
  return pg::call([fcinfo, caller, &to, &t] {
    if (memcmp(&t.holder, &t.id, sizeof t.id) == 0) {
      insert(fcinfo, caller, to, t);
    }
    return result(t.holder);
  });
}

}  // namespace underway
