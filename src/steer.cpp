#include "steer.hpp"

#include "clock.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "process.hpp"
#include "settings.hpp"
#include "waitpoint.hpp"

#include <algorithm>
#include <initializer_list>

namespace underway::steer {

namespace {

constexpr int portion = 100;
constexpr TimestampTz soon = 20 * 1000;
constexpr TimestampTz at_latest = 5 * USECS_PER_SEC;

pg::statement asked("SELECT * FROM underway_internal.asked_runs($1, $2)", INT8OID, INT4OID);
pg::statement overdue("SELECT 0::int8, r FROM underway_internal.overdue_runs($1) r", INT4OID);
pg::statement unsettled("SELECT * FROM underway_internal.unsettled_runs($1, $2)", INT8OID, INT4OID);
pg::statement obey("SELECT underway_internal.obey($1)", UUIDOID);
pg::statement settle("SELECT underway_internal.settle($1)", UUIDOID);
pg::statement next_deadline("SELECT underway_internal.next_deadline()");

TimestampTz deadline_at = DT_NOBEGIN;  // of the test clock
TimestampTz again_at =
    DT_NOBEGIN;  // real time; at the start: an earlier coordinator may have died over it
TimestampTz delay = soon;
int64 unsettled_after = 0;
int64 seen_offset = 0;
uint32 seen_generation = 0;

struct runs {
  int count = 0;
  int64 last = 0;  // of what was asked
  pg_uuid_t ids[portion];
};

void find(pg::statement* statement, const pg::value* args, runs* found) {
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    statement->run(args, [found](const pg::row& r) {
      if (found->count < portion) {
        found->last = r.int8(1);
        found->ids[found->count++] = r.uuid(2);
      }
    });
  }
  tx.commit();
}

// True: nothing is left to do about this run but what its own steps do by their end.
bool call_for(pg::statement* statement, const pg_uuid_t& id) {
  bool done = false;
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    const pg::value arg = pg::of(&id);
    statement->run(&arg, [&done](const pg::row& r) { done = r.boolean(1); });
  }
  tx.commit();
  return done;
}

// What is asked is known to all before anything is stopped: hence two transactions.
bool steer(const pg_uuid_t& id, std::initializer_list<pg::statement*> statements) {
  pg::call([] { CHECK_FOR_INTERRUPTS(); });
  bool done = true;
  try {
    for (pg::statement* s : statements) {
      done = done && call_for(s, id);
      if (s == &obey) {
        pg::call([] { waitpoint(waitpoint_id::obeyed); });
      }
    }
    return done;
  } catch (pg::error& e) {
    // Its transaction is gone. Others must not wait for this one to be mended.
    if (process::extension_is_gone()) {
      throw;
    }
    pg::call([&e, &id] {
      ereport(WARNING, (errcode(e.sqlstate()),
                        errmsg("underway: what was asked of run %s failed, and is tried again: %s",
                               DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&id))),
                               e.data().message)));
    });
    return false;
  }
}

bool steer_all(const runs& found, std::initializer_list<pg::statement*> statements) {
  bool done = true;
  for (int n = 0; n < found.count; n++) {
    done = steer(found.ids[n], statements) && done;
  }
  return done;
}

// Those that are locked just now are not asked again here.
bool obey_all() {
  bool done = true;
  for (int64 after = 0;;) {
    runs found;
    const pg::value args[2] = {pg::of(after), pg::of(portion)};
    find(&asked, args, &found);
    done = steer_all(found, {&obey, &settle}) && done;
    if (found.count < portion) {
      return done;
    }
    after = found.last;
  }
}

bool end_overdue() {
  for (;;) {
    runs found;
    const pg::value arg = pg::of(portion);
    find(&overdue, &arg, &found);
    if (!steer_all(found, {&obey, &settle})) {
      return false;
    }
    if (found.count < portion) {
      return true;
    }
  }
}

bool settle_some() {
  runs found;
  const pg::value args[2] = {pg::of(unsettled_after), pg::of(portion)};
  find(&unsettled, args, &found);
  const bool all = unsettled_after == 0 && found.count < portion;
  unsettled_after = found.count < portion ? 0 : found.last;
  return steer_all(found, {&settle}) && all;
}

}  // namespace

TimestampTz run(database_entry* db) {
  if (!settings::enabled) {
    return DT_NOEND;  // a change of settings changes the generation
  }
  if (seen_offset != shared->clock_offset) {
    seen_offset = shared->clock_offset;
    deadline_at = DT_NOBEGIN;
  }
  const bool new_ones = db->controls.exchange(false);
  if (seen_generation != db->generation) {
    again_at = DT_NOBEGIN;  // a copy that was adopted has what its original left unsettled
  }
  seen_generation = db->generation;
  const bool again = again_at <= GetCurrentTimestamp();
  const TimestampTz now = clock_now();
  bool done = true;
  if (new_ones || again) {
    done = obey_all();
    db->asked = !done;  // by one that has just committed: it is looked at next
  }
  if (deadline_at <= now || db->next_deadline <= now) {
    db->next_deadline = DT_NOEND;
    done = end_overdue() && done;
    pg::transaction tx(pg::transaction::kind::ours);
    {
      pg::as_owner owner(true);
      next_deadline.run(nullptr,
                        [](const pg::row& r) { deadline_at = r.null(1) ? DT_NOEND : r.time(1); });
    }
    tx.commit();
    if (deadline_at <= now) {
      deadline_at = now + soon;  // somebody has it locked
    }
  }
  if (again) {
    done = settle_some() && done;
    delay = std::min(2 * delay, at_latest);
    again_at = done ? DT_NOEND : GetCurrentTimestamp() + delay;
  } else if (!done) {
    delay = soon;
    again_at = GetCurrentTimestamp() + delay;
  }
  const TimestampTz next = std::min<TimestampTz>(deadline_at, db->next_deadline);
  return std::min(again_at, next == DT_NOEND ? next : next - shared->clock_offset);
}

}  // namespace underway::steer
