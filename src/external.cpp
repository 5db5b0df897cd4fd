#include "external.hpp"

#include "clock.hpp"
#include "dequeue.hpp"
#include "entry.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "settings.hpp"
#include "sleep.hpp"
#include "task_lock.hpp"
#include "wake.hpp"

#include <algorithm>

namespace underway {

void wake_external(Oid database, int queue_id, int wanted) noexcept {
  work_waiter* const waiters = shared->work_waiters();
  for (int n = 0; n < shared->awaiters_size && wanted > 0; n++) {
    work_waiter& w = waiters[n];
    const int proc = w.proc_plus_one;
    if (proc == 0 || w.database != database) {
      continue;
    }
    for (int i = 0; i < w.count; i++) {
      if ((w.queues[i] == queue_id || queue_id == 0) && !w.told.exchange(true)) {
        pg::set_latch_of(proc - 1);
        wanted--;
        break;
      }
    }
  }
}

void wake_later_than(Oid database, int queue_id, TimestampTz at) noexcept {
  work_waiter* const waiters = shared->work_waiters();
  for (int n = 0; n < shared->awaiters_size; n++) {
    work_waiter& w = waiters[n];
    const int proc = w.proc_plus_one;
    if (proc == 0 || w.database != database || w.until <= at - shared->clock_offset) {
      continue;
    }
    for (int i = 0; i < w.count; i++) {
      if (w.queues[i] == queue_id) {
        pg::set_latch_of(proc - 1);
        break;
      }
    }
  }
}

namespace {

constexpr int64 longest_wait_ms = int64{24} * 3600 * 1000;
constexpr int fewest_looked_at = 16;  // of heartbeats: the first may be of tasks that are
                                      // executing, or of leases that have ended

// Before this snapshot `full` is set, and taken back when there are places: one that becomes free
// meanwhile takes it back as well.
pg::statement queue_of(
    "SELECT q.id FROM underway_internal.queue q WHERE q.name = $1 AND q.dropped_at IS NULL",
    TEXTOID);
pg::statement dequeue_from(
    "SELECT * FROM underway_internal.dequeue_from(CAST($1 AS oid), $2, $3, $4)", OIDOID, TEXTOID,
    INT4OID, TEXTOID);
pg::statement dequeue_inline("SELECT * FROM underway_internal.dequeue_inline($1, $2, $3, $4, $5)",
                             INT4OID, UUIDOID, INT4OID, INT4OID, TEXTOID);
pg::statement begin_leases(
    "SELECT * FROM underway_internal.begin_leases($1, $2, $3, $4, $5, $6, $7)", INT4OID,
    UUIDARRAYOID, UUIDARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, INTERVALARRAYOID,
    INTERVALARRAYOID);
pg::statement reclaim_stale("SELECT reclaimed FROM underway_internal.reclaim_stale($1, $2, $3)",
                            INT4OID, INT4OID, INT4OID);

// One row of the result: a task and the end of its time.
void put(Tuplestorestate* store, TupleDesc descriptor, const claimed_task& t,
         TimestampTz deadline) {
  Datum values[9] = {UUIDPGetDatum(&t.id),
                     Int32GetDatum(t.attempt),
                     UUIDPGetDatum(&t.lease),
                     JsonbPGetDatum(t.input),
                     JsonbPGetDatum(t.headers),
                     UUIDPGetDatum(&t.run_id),
                     t.of_run ? CStringGetTextDatum(t.step) : Datum{0},
                     BoolGetDatum(t.last_attempt),
                     TimestampTzGetDatum(deadline)};
  bool nulls[9] = {false,     false,     false, false, t.headers == nullptr,
                   !t.of_run, !t.of_run, false, false};
  tuplestore_putvalues(store, descriptor, values, nulls);
}

// Gives the leases of these tasks their first heartbeats; the rows of the result.
void lease(FunctionCallInfo fcinfo, int queue_id, const claimed_task* tasks, int n) {
  pg::value args[7];
  args[0] = pg::of(queue_id);
  pg::call([&] {
    const auto column = [&](Oid type, auto&& of) {
      auto elements = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<Size>(n)));
      auto nulls = static_cast<bool*>(palloc(static_cast<Size>(n)));
      for (int i = 0; i < n; i++) {
        const pg::value v = of(tasks[i]);
        elements[i] = v.datum;
        nulls[i] = v.null;
      }
      return pg::of_datum(pg::array_of(type, elements, n, nulls), false);
    };
    args[1] = column(UUIDOID, [](const claimed_task& t) { return pg::of(&t.lease); });
    args[2] = column(UUIDOID, [](const claimed_task& t) { return pg::of(&t.id); });
    args[3] = column(INT4OID, [](const claimed_task& t) { return pg::of(t.attempt); });
    args[4] =
        column(TIMESTAMPTZOID, [](const claimed_task& t) { return pg::of_time(t.claimed_at); });
    args[5] = column(INTERVALOID, [](const claimed_task& t) { return pg::of(t.heartbeat); });
    args[6] = column(INTERVALOID, [](const claimed_task& t) { return pg::of(t.timeout); });
  });
  auto rsinfo = reinterpret_cast<ReturnSetInfo*>(fcinfo->resultinfo);
  int i = 0;
  TimestampTz first_stale = DT_NOEND;
  begin_leases.run(args, [&](const pg::row& r) {
    put(rsinfo->setResult, rsinfo->setDesc, tasks[i++], r.time(1));
    first_stale = std::min(first_stale, r.time(2));
  });
  note_stale(first_stale);
}

struct source {
  queue_entry* entry = nullptr;
  int queue_id = 0;
  Interval ttl = {};
  int max_attempts = 0;
  int places = -1;  // no limit
};

// Who has passed it by meanwhile sets his timer by it.
void has_places(const source& from) noexcept {
  if (from.entry == nullptr || !from.entry->full.exchange(false)) {
    return;
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const TimestampTz earliest = from.entry->earliest;
  if (earliest > clock_now() && earliest != DT_NOEND) {
    wake_later_than(MyDatabaseId, from.queue_id, earliest);
  }
}

// Claims from every priority that may have something due; returns how many tasks there are now.
int claim_from(const source& from, const char* worker, int n, int wanted, claimed_task* tasks,
               MemoryContext memory) {
  for (int p = 0; p < priorities && n < wanted; p++) {
    TimestampTz due = DT_NOEND;
    if (from.entry->earliest > clock_now()) {
      break;
    }
    if (lane_is_due(from.entry, p, clock_now(), &due)) {
      n += claim_tasks(
               {from.entry, from.queue_id, &from.ttl, from.max_attempts, worker, nullptr, false}, p,
               wanted - n, memory, tasks + n)
               .count;
    }
  }
  return n;
}

// In a transaction that run_inline works: what it has enqueued itself, which nobody else sees, and
// nothing else, since its clock is not that of others.
int claim_own(const source& from, const char* worker, int wanted, claimed_task* tasks,
              MemoryContext memory) {
  int n = 0;
  const pg_uuid_t first = least_own_id();
  pg::value args[5] = {
      pg::of(from.queue_id), pg::of(&first), pg::of(wanted), pg::of(from.max_attempts), {}};
  pg::call([&] { args[4] = pg::of_text(worker); });
  dequeue_inline.run(args, [&](const pg::row& r) {
    claimed_task& t = tasks[n++];
    t.id = r.uuid(1);
    t.attempt = r.int4(2);
    t.input = r.jsonb(3, memory);
    t.headers = r.jsonb(4, memory);
    t.last_attempt = r.boolean(5);
    t.lease = r.uuid(6);
    t.of_run = !r.null(7);
    if (t.of_run) {
      t.run_id = r.uuid(7);
      t.step = r.text(8, memory);
    }
    t.claimed_at = r.time(9);
    t.heartbeat = r.interval(10, memory);
    t.timeout = r.interval(11, memory);
  });
  return n;
}

}  // namespace

UNDERWAY_ENTRY(underway_dequeue) {
  const Oid caller = GetUserId();
  pg::call([fcinfo] {
    require_preload();
    InitMaterializedSRF(fcinfo, 0);
  });
  pg::as_owner owner(false);
  source from;
  const pg::value args[4] = {pg::of_oid(caller),
                             pg::of_datum(fcinfo->args[0].value, fcinfo->args[0].isnull),
                             pg::of_datum(fcinfo->args[1].value, fcinfo->args[1].isnull),
                             pg::of_datum(fcinfo->args[2].value, fcinfo->args[2].isnull)};
  queue_of.run(&args[1], [&from](const pg::row& r) { from.queue_id = r.int4(1); });
  from.entry = from.queue_id != 0 ? find_queue_entry(MyDatabaseId, from.queue_id, true) : nullptr;
  if (from.entry != nullptr) {
    from.entry->full = true;
  }
  try {
    dequeue_from.run(args, [&from](const pg::row& r) {
      from.queue_id = r.int4(1);
      from.ttl = *DatumGetIntervalP(r.get(2).datum);
      from.max_attempts = r.int4(3);
      from.places = r.null(4) ? -1 : r.int4(4);
    });
  } catch (pg::error& e) {
    if (from.entry != nullptr) {
      from.entry->full = false;  // as far as this one knows; others look, and come to know
      wake_external(MyDatabaseId, from.queue_id, 1);
    }
    e.drop_context();
    throw;
  }
  const int wanted =
      from.places < 0 ? PG_GETARG_INT32(1) : std::min(PG_GETARG_INT32(1), from.places);
  if (from.places < 0 || wanted < from.places) {
    has_places(from);
  }
  if (wanted == 0 || from.entry == nullptr) {
    return Datum{0};
  }
  MemoryContext memory = CurrentMemoryContext;
  char* worker = nullptr;
  auto tasks = static_cast<claimed_task*>(pg::call([&] {
    worker = PG_ARGISNULL(2) ? psprintf("external worker (pid %d)", MyProcPid)
                             : text_to_cstring(PG_GETARG_TEXT_PP(2));
    return palloc0(sizeof(claimed_task) * static_cast<Size>(wanted));
  }));
  int n = has_transaction_clock() ? claim_own(from, worker, wanted, tasks, memory)
                                  : claim_from(from, worker, 0, wanted, tasks, memory);
  if (n < wanted && !has_transaction_clock()) {
    // As in the origin: who finds nothing looks whether somebody else's work is stale. Bounded, by
    // an index.
    int64 reclaimed = 0;
    const pg::value which[3] = {pg::of(from.queue_id),
                                pg::of(std::max(wanted - n, fewest_looked_at)),
                                pg::of(settings::max_crashes)};
    reclaim_stale.run(which, [&reclaimed](const pg::row& r) { reclaimed = r.int8(1); });
    if (reclaimed > 0) {
      lower_to_now(from.entry);
      n = claim_from(from, worker, n, wanted, tasks, memory);
    }
  }
  if (n < from.places) {
    has_places(from);
  }
  if (n == 0) {
    // A claim with an older snapshot has found out nothing, and wait_for_work would say at once
    // that there may be something.
    if (IsolationUsesXactSnapshot() && !has_transaction_clock()) {
      survey_now(from.entry, from.queue_id);
    }
    return Datum{0};
  }
  pg::call([] { ForceSyncCommit(); });  // a claim is always flushed (promise 4)
  lease(fcinfo, from.queue_id, tasks, n);
  return Datum{0};
}

namespace {

work_waiter* my_place = nullptr;
bool registered_exit = false;

void leave_place() noexcept {
  if (my_place == nullptr) {
    return;
  }
  // A client that was told of work and goes without looking must not take the news with it.
  const bool told = my_place->told.exchange(true);
  const int count = my_place->count;
  int queues[work_waiter::max_queues];
  std::copy(my_place->queues, my_place->queues + count, queues);
  my_place->proc_plus_one = 0;
  my_place = nullptr;
  if (told) {
    for (int i = 0; i < count; i++) {
      wake_external(MyDatabaseId, queues[i], 1);
    }
  }
}

void take_place(const int* queues, int count) {
  if (!registered_exit) {
    before_shmem_exit([](int, Datum) { leave_place(); }, 0);
    registered_exit = true;
  }
  leave_place();
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  for (int n = 0; n < shared->awaiters_size && my_place == nullptr; n++) {
    work_waiter& w = shared->work_waiters()[n];
    if (w.proc_plus_one == 0) {
      w.database = MyDatabaseId;
      w.told = false;
      w.until = DT_NOBEGIN;
      std::copy(queues, queues + count, w.queues);
      w.count = count;
      w.proc_plus_one = pg::my_proc_number() + 1;
      my_place = &w;
    }
  }
  LWLockRelease(registry_lock);
  if (my_place == nullptr) {
    ereport(ERROR,
            (errcode(ERRCODE_TOO_MANY_CONNECTIONS), errmsg("too many sessions wait for work"),
             errhint("There is room for max_connections and max_worker_processes of them.")));
  }
}

// The number in the list of a queue that may have something due, or -1; and when to look again if
// nobody says anything.
int look(queue_entry* const* entries, int count, TimestampTz* next) noexcept {
  const TimestampTz now = clock_now();
  for (int i = 0; i < count; i++) {
    if (entries[i]->full) {
      continue;
    }
    const TimestampTz earliest = entries[i]->earliest;
    if (earliest <= now) {
      return i;
    }
    if (earliest != DT_NOEND) {
      *next = std::min(*next, earliest - shared->clock_offset);
    }
  }
  return -1;
}

}  // namespace

UNDERWAY_ENTRY(underway_wait_for_work) {
  const Oid caller = GetUserId();
  int ids[work_waiter::max_queues];
  queue_entry* entries[work_waiter::max_queues];
  int count = 0;
  TimestampTz end = 0;
  ArrayType* names = nullptr;
  pg::call([&] {
    require_preload();
    require_top_level(fcinfo, "wait_for_work", "");
    names = PG_ARGISNULL(0) ? nullptr : PG_GETARG_ARRAYTYPE_P_COPY(0);
    count = names == nullptr ? 0 : ArrayGetNItems(ARR_NDIM(names), ARR_DIMS(names));
    if (count < 1 || count > work_waiter::max_queues || ARR_NDIM(names) > 1 ||
        array_contains_nulls(names)) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                      errmsg("queues must name 1 to %d queues", work_waiter::max_queues),
                      errhint("For example: CALL underway.wait_for_work('{emails}');")));
    }
    end = GetCurrentTimestamp() +
          checked_timeout(PG_ARGISNULL(1) ? nullptr : PG_GETARG_INTERVAL_P(1), longest_wait_ms) *
              1000;
    SPI_connect_ext(SPI_OPT_NONATOMIC);
  });
  {
    static pg::statement find(
        "SELECT q.id FROM unnest($2) WITH ORDINALITY u(name, n),"
        " underway_internal.external_queue(CAST($1 AS oid), u.name) q ORDER BY u.n",
        OIDOID, TEXTARRAYOID);
    pg::as_owner owner(false);
    const pg::value args[2] = {pg::of_oid(caller), pg::of_datum(PointerGetDatum(names), false)};
    int n = 0;
    try {
      find.run(args, [&](const pg::row& r) { ids[n++] = r.int4(1); });
    } catch (pg::error& e) {
      e.drop_context();
      throw;
    }
  }
  int found = -1;
  pg::call([&] {
    for (int i = 0; i < count; i++) {
      entries[i] = find_queue_entry(MyDatabaseId, ids[i], true);
      if (entries[i] == nullptr) {
        ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                        errmsg("no room in shared memory for one more queue"),
                        errhint("Raise underway.max_queues (now %d) and restart the server.",
                                shared->queues_size)));
      }
    }
  });
  try {
    pg::call([&] {
      take_place(ids, count);
      SPI_commit();
      for (;;) {
        my_place->told = false;
        TimestampTz until = DT_NOBEGIN;
        // Published before the last look, which must not find an earlier time: who makes something
        // due before it wakes us then.
        for (TimestampTz next = end; next != until;) {
          until = next;
          my_place->until = until;
          std::atomic_thread_fence(std::memory_order_seq_cst);
          next = end;
          found = look(entries, count, &next);
          if (found >= 0) {
            break;
          }
        }
        if (found >= 0 || GetCurrentTimestamp() >= end) {
          break;
        }
        (void)sleep_until(until);
      }
      my_place->until = DT_NOBEGIN;
    });
  } catch (pg::error&) {
    leave_place();  // cancelled: nobody sleeps here any more, to be told of work
    throw;
  }
  // Told until it looks again: a client that dies before it dequeues passes the news on. One that
  // was told again while it looked does so now, since it takes up one thing only; and of what it
  // was told before, which may have been of another queue.
  if (found < 0) {
    leave_place();
  } else {
    const bool told = my_place->told.exchange(true);
    for (int i = 0; i < count; i++) {
      if (told || (i != found && !entries[i]->full && entries[i]->earliest <= clock_now())) {
        wake_external(MyDatabaseId, ids[i], 1);
      }
    }
  }
  return pg::call([&] {
    SPI_finish();
    Datum name = 0;
    if (found >= 0) {
      int at = found + ARR_LBOUND(names)[0];
      bool null = false;
      name = array_get_element(PointerGetDatum(names), 1, &at, -1, -1, false, TYPALIGN_INT, &null);
    }
    return text_row(fcinfo, found < 0 ? nullptr : TextDatumGetCString(name));
  });
}

UNDERWAY_ENTRY(underway_hold_task) {
  pg::call([fcinfo] { lock_task(*PG_GETARG_UUID_P(0)); });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_try_lock_task) {
  PG_RETURN_BOOL(pg::call([fcinfo] { return try_lock_task(*PG_GETARG_UUID_P(0)); }));
}

UNDERWAY_ENTRY(underway_lock_places) {
  pg::call([fcinfo] { lock_places(PG_GETARG_INT32(0)); });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_check_lease_now) {
  static pg::statement check("SELECT underway_internal.check_lease($1)", UUIDOID);
  const pg::value lease = pg::of(PG_GETARG_UUID_P(0));
  check.run(
      &lease, [](const pg::row&) {}, true);
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_leases_now) {
  static pg::statement count("SELECT underway_internal.count_leases($1)", INT4OID);
  const pg::value queue = pg::of(PG_GETARG_INT32(0));
  int64 leases = 0;
  count.run(
      &queue, [&leases](const pg::row& r) { leases = r.int8(1); }, true);
  PG_RETURN_INT64(leases);
}

UNDERWAY_ENTRY(underway_is_ours) {
  PG_RETURN_BOOL(pg::call(
      [fcinfo] { return TransactionIdIsCurrentTransactionId(PG_GETARG_TRANSACTIONID(0)); }));
}

// The launcher says, or a client that was faster.
UNDERWAY_ENTRY(underway_recovered_at) {
  const TimestampTz now = GetCurrentTimestamp();
  TimestampTz never = 0;
  if (RecoveryInProgress()) {
    PG_RETURN_TIMESTAMPTZ(now);
  }
  shared->recovered_at.compare_exchange_strong(never, now);
  PG_RETURN_TIMESTAMPTZ(shared->recovered_at);
}

}  // namespace underway
