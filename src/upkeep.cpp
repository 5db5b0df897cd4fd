#include "upkeep.hpp"

#include "clock.hpp"
#include "dequeue.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "settings.hpp"

#include <algorithm>

namespace underway::upkeep {

namespace {

constexpr int most_at_once = 1000;

pg::statement expire("SELECT underway_internal.expire($1, $2)", INTERVALOID, INT4OID);
pg::statement next_expiry("SELECT underway_internal.next_expiry($1)", TIMESTAMPTZOID);
pg::statement end_dropped("SELECT underway_internal.end_dropped($1, $2)", INT4OID, INT4OID);
pg::statement rotate("SELECT underway_internal.rotate($1, $2, $3)", TEXTOID, INT4OID, INTERVALOID);
pg::statement next_rotation("SELECT underway_internal.next_rotation($1, $2)", INTERVALOID,
                            INTERVALOID);

TimestampTz expiry_at = DT_NOBEGIN;  // of the test clock
TimestampTz rotation_at = DT_NOBEGIN;
int64 seen_offset = 0;

Interval minutes(int n) noexcept { return {static_cast<TimeOffset>(n) * 60 * USECS_PER_SEC, 0, 0}; }

// As long as there is a full portion: each in a transaction of its own.
void until_less(pg::statement* statement, const pg::value* args) {
  int64 n = most_at_once;
  while (n >= most_at_once) {
    pg::transaction tx(pg::transaction::kind::ours);
    {
      pg::as_owner owner(true);
      statement->run(args, [&n](const pg::row& r) { n = r.int8(1); });
    }
    tx.commit();
    pg::call([] { CHECK_FOR_INTERRUPTS(); });
  }
}

TimestampTz ask(pg::statement* statement, const pg::value* args) {
  TimestampTz answer = DT_NOEND;
  pg::transaction tx(pg::transaction::kind::ours);
  {
    pg::as_owner owner(true);
    statement->run(args,
                   [&answer](const pg::row& r) { answer = r.null(1) ? DT_NOEND : r.time(1); });
  }
  tx.commit();
  return answer;
}

void expire_tasks(database_entry* db) {
  db->next_expiry = DT_NOEND;
  const Interval ttl = {0, settings::default_ttl_days, 0};
  const pg::value args[2] = {pg::of(&ttl), pg::of(most_at_once)};
  const pg::value swept_at = pg::of_time(clock_now());
  until_less(&expire, args);
  const TimestampTz next = ask(&next_expiry, &swept_at);
  TimestampTz noted = db->next_expiry;
  while (next < noted && !db->next_expiry.compare_exchange_weak(noted, next)) {
  }
}

void rotate_ring(const char* ring, int first, int keep_minutes) {
  const Interval keep = minutes(keep_minutes);
  try {
    pg::transaction tx(pg::transaction::kind::ours);
    {
      pg::as_owner owner(true);
      pg::value args[3];
      pg::call([&] {
        // Restored with the transaction. Whoever reads the oldest table keeps it; the next round
        // tries again.
        (void)set_config_option("lock_timeout", "100ms", PGC_USERSET, PGC_S_SESSION,
                                GUC_ACTION_LOCAL, true, 0, false);
        args[0] = pg::of_text(ring);
      });
      args[1] = pg::of(first);
      args[2] = pg::of(&keep);
      rotate.run(args);
    }
    tx.commit();
  } catch (pg::error& e) {
    // A deadlock, where deadlock_timeout is shorter.
    if (e.sqlstate() != ERRCODE_LOCK_NOT_AVAILABLE &&
        e.sqlstate() != ERRCODE_T_R_DEADLOCK_DETECTED) {
      throw;
    }
  }
}

void rotate_rings() {
  rotate_ring("succeeded", 0, settings::keep_succeeded);
  rotate_ring("ended", 8, settings::keep_failed);
  rotate_ring("attempt", 0, std::max(settings::keep_succeeded, settings::keep_failed));
  const Interval succeeded = minutes(settings::keep_succeeded);
  const Interval failed = minutes(settings::keep_failed);
  const pg::value args[2] = {pg::of(&succeeded), pg::of(&failed)};
  rotation_at = std::max(ask(&next_rotation, args), clock_now() + 60 * USECS_PER_SEC);
}

}  // namespace

void survey(queue_list& queues) {
  for (queue_info& q : queues) {
    if (q.entry != nullptr && q.why != obstacle::held && q.entry->earliest == DT_NOBEGIN) {
      (void)underway::survey(q);
    }
  }
}

bool has_home(queue_list& queues) noexcept {
  return std::any_of(queues.begin(), queues.end(),
                     [](const queue_info& q) { return q.why != obstacle::held; });
}

TimestampTz run(database_entry* db, queue_list& queues) {
  if (!settings::enabled) {
    return DT_NOEND;
  }
  if (seen_offset != shared->clock_offset) {
    seen_offset = shared->clock_offset;
    expiry_at = rotation_at = DT_NOBEGIN;
  }
  const TimestampTz now = clock_now();
  for (queue_info& q : queues) {
    if (q.why == obstacle::dropped &&
        (q.unfinished || (q.entry != nullptr && q.entry->earliest < DT_NOEND))) {
      const pg::value args[2] = {pg::of(q.id), pg::of(most_at_once)};
      until_less(&end_dropped, args);
      q.unfinished = false;
      if (q.entry != nullptr) {
        reset_marks(q.entry);
        (void)underway::survey(q);
      }
    }
  }
  if (expiry_at <= now || db->next_expiry <= now) {
    expire_tasks(db);
    expiry_at = now + 3600 * USECS_PER_SEC;
  }
  if (rotation_at <= now) {
    rotate_rings();
  }
  return std::min<TimestampTz>({expiry_at, rotation_at, db->next_expiry.load()}) -
         shared->clock_offset;
}

}  // namespace underway::upkeep
