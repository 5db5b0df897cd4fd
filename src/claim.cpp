#include "claim.hpp"

#include "clock.hpp"
#include "pg/error.hpp"
#include "task_table.hpp"
#include "waitpoint.hpp"

namespace underway {

namespace {

namespace col = task_column;
constexpr auto& at = of_task;
pg::relation pending("task_pending");

// The index's columns are queue_id, priority, run_at, id.
struct from_key {
  ScanKeyData keys[3];
  ScanKeyData row[2];  // (run_at, id) >= (..), as nodeIndexscan.c builds it
};

void begin_at(from_key* k, int queue_id, int priority, const row_key* start) {
  ScanKeyInit(&k->keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(queue_id));
  ScanKeyInit(&k->keys[1], 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(priority));
  ScanKeyEntryInitialize(&k->row[0], SK_ROW_MEMBER, 3, BTGreaterEqualStrategyNumber, TIMESTAMPTZOID,
                         InvalidOid, F_TIMESTAMPTZ_CMP, TimestampTzGetDatum(start->run_at));
  ScanKeyEntryInitialize(&k->row[1], SK_ROW_MEMBER | SK_ROW_END, 4, BTGreaterEqualStrategyNumber,
                         UUIDOID, InvalidOid, F_UUID_CMP, UUIDPGetDatum(&start->id));
  k->keys[2] = {};
  k->keys[2].sk_flags = SK_ROW_HEADER;
  k->keys[2].sk_attno = 3;
  k->keys[2].sk_strategy = BTGreaterEqualStrategyNumber;
  k->keys[2].sk_argument = PointerGetDatum(k->row);
}

// Of its own time to live or its queue's (null: none), and not begun within it. Steps of runs have
// none.
bool is_expired(const pg::table& t, const Interval* ttl, TimestampTz now) {
  if (t.int4(at[col::attempt]) > 0 || !t.null(at[col::run_id])) {
    return false;
  }
  if (!t.null(at[col::expires_at])) {
    return t.time(at[col::expires_at]) <= now;
  }
  if (ttl == nullptr) {
    return false;
  }
  const TimestampTz since = Max(t.time(at[col::run_at]), t.time(at[col::enqueued_at]));
  return DatumGetTimestampTz(DirectFunctionCall2(
             timestamptz_pl_interval, TimestampTzGetDatum(since), PointerGetDatum(ttl))) <= now;
}

int max_attempts_of(const pg::table& t, int of_queue) {
  if (t.null(at[col::retry])) {
    return of_queue;
  }
  JsonbValue found;
  Jsonb* policy = DatumGetJsonbP(t.value(at[col::retry]));
  return getKeyJsonValueFromContainer(&policy->root, "max_attempts", strlen("max_attempts"),
                                      &found) == nullptr ||
                 found.type != jbvNumeric
             ? of_queue
             : DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(found.val.numeric)));
}

constexpr int most_passed = 8;
constexpr int most_between = 1000;  // entries of the index, dead ones too

// What does not differ between the tasks of one claim.
struct claimer {
  const worker_slot* slot;  // null: an external worker
  TimestampTz now;
  Datum in_progress;
  Datum worker;
};

claimer begin_claims(const worker_slot* slot, const char* worker) {
  return {slot, clock_now(), CStringGetTextDatum("in_progress"), CStringGetTextDatum(worker)};
}

// As gen_random_uuid() makes them; all random bytes at once take a tenth of the time.
pg_uuid_t* random_leases(int n) {
  const Size size = sizeof(pg_uuid_t) * static_cast<Size>(n);
  auto leases = static_cast<pg_uuid_t*>(palloc(size));
  if (!pg_strong_random(leases, size)) {
    ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random values")));
  }
  for (int i = 0; i < n; i++) {
    unsigned char* bytes = leases[i].data;
    bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0f) | 0x40);
    bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
  }
  return leases;
}

// lease: for an external worker, else null.
bool take(pg::table* t, const claimer& who, const pg_uuid_t* lease) {
  t->begin_copy();
  t->set(at[col::state], who.in_progress);
  t->set(at[col::attempt], Int32GetDatum(t->int4(at[col::attempt]) + 1));
  t->set(at[col::claimed_at], TimestampTzGetDatum(who.now));
  t->set(at[col::worker], who.worker);
  if (lease != nullptr) {
    t->set(at[col::lease], UUIDPGetDatum(lease));
  } else {
    t->set(at[col::boot], Int64GetDatum(shared->boot));
    t->set(at[col::slot], Int32GetDatum(number_of(who.slot)));
    t->set(at[col::generation], Int32GetDatum(static_cast<int32>(who.slot->generation)));
  }
  return t->change() == pg::changed::yes;
}

// Of the row as it was found: before the claim, or after it where somebody else has claimed it for
// this worker.
claimed_task described(const pg::table& t, int attempt, const pg::place& where, int max_attempts) {
  claimed_task task = {};
  task.id = t.uuid(at[col::id]);
  task.at = where;
  task.attempt = attempt;
  task.input = t.jsonb(at[col::input]);
  task.headers = t.jsonb(at[col::headers]);
  task.timeout = t.interval(at[col::timeout]);
  task.last_attempt = t.int4(at[col::failures]) + 1 >= max_attempts_of(t, max_attempts);
  task.crashes = t.int4(at[col::crashes]);
  task.of_run = !t.null(at[col::run_id]);
  if (task.of_run) {
    task.run_id = t.uuid(at[col::run_id]);
    task.version = t.int4(at[col::version]);
    task.step = t.text(at[col::step]);
    task.item = t.null(at[col::item]) ? 0 : t.int4(at[col::item]);
    task.phase = t.text(at[col::phase]);
  }
  return task;
}

}  // namespace

bool first_pending(int queue_id, int priority, const row_key& start, const row_key& end, int most,
                   row_key* found) {
  return pg::call([&] {
    from_key key;
    pg::table t;
    open_tasks(&t);
    PushActiveSnapshot(GetLatestSnapshot());
    begin_at(&key, queue_id, priority, &start);
    t.scan(pending.oid(), key.keys, lengthof(key.keys));
    bool is = false;
    while (!is && t.next(&most)) {
      *found = {t.time(at[col::run_at]), t.uuid(at[col::id])};
      if (!before(*found, end)) {
        break;
      }
      is = pg::is_word(t.value(at[col::state]), "pending") && t.is_free();
    }
    t.close();
    PopActiveSnapshot();
    return is;
  });
}

claimed_rows claim_rows(const claim_source& from, int priority, const row_key& start, int max_tasks,
                        int most_crashes, MemoryContext memory, claimed_task* tasks) {
  return pg::call([&] {
    claimed_rows taken;
    const claimer who = begin_claims(from.slot, from.worker);
    const pg_uuid_t* leases = from.slot == nullptr ? random_leases(max_tasks) : nullptr;
    from_key key;
    pg::table t;
    open_tasks(&t);
    PushActiveSnapshot(GetTransactionSnapshot());
    waitpoint(waitpoint_id::scanning);
    begin_at(&key, from.queue_id, priority, &start);
    t.scan(pending.oid(), key.keys, lengthof(key.keys));
    MemoryContext before = MemoryContextSwitchTo(memory);
    taken.expired_ids = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<Size>(max_tasks)));
    int most = max_tasks;
    int passed = 0;  // of those that it leaves
    int between = most_between;
    // Further than it takes: whether more is due, or when, decides who else is woken. Once it has
    // something to run, it does not look for long: neither among many that others are taking just
    // now, nor among all that have ended and that an old snapshot keeps.
    while (!taken.more && (taken.rows == 0 ? t.next() : t.next(&between))) {
      if (!pg::is_word(t.value(at[col::state]), "pending")) {
        continue;
      }
      if (t.time(at[col::run_at]) > who.now) {
        taken.next_due = t.time(at[col::run_at]);
        break;
      }
      const int crashes = t.int4(at[col::crashes]);
      if (crashes > most_crashes) {
        continue;
      }
      // A suspect is claimed alone, so that the next crash is its own (promise 8).
      if (taken.rows == most || (crashes > 0 && (taken.rows > 0 || from.with_others))) {
        taken.more = t.is_free() || ++passed == most_passed;
        continue;
      }
      const pg_uuid_t* lease = leases == nullptr ? nullptr : &leases[taken.rows];
      // It waits for nobody, be it one who comes to that row in the same moment.
      if (t.try_lock() != pg::changed::yes || !take(&t, who, lease)) {
        continue;
      }
      taken.rows++;
      between = most_between;
      most = crashes > 0 ? taken.rows : most;
      taken.last = {t.time(at[col::run_at]), t.uuid(at[col::id])};
      if (is_expired(t, from.ttl, who.now)) {
        taken.expired_ids[taken.expired++] = datumCopy(t.value(at[col::id]), false, UUID_LEN);
      } else {
        claimed_task& task = tasks[taken.count++];
        task = described(t, t.int4(at[col::attempt]) + 1, t.written_at(), from.max_attempts);
        if (lease != nullptr) {
          task.lease = *lease;
          task.claimed_at = who.now;
          task.heartbeat = t.interval(at[col::heartbeat]);
        }
      }
    }
    taken.more = taken.more || between == 0;
    MemoryContextSwitchTo(before);
    t.close();
    PopActiveSnapshot();
    CommandCounterIncrement();
    return taken;
  });
}

bool claim_own(handed_task* task, const Interval* ttl, const worker_slot* (*reserve)()) {
  pg::table t;
  open_tasks(&t);
  PushActiveSnapshot(GetTransactionSnapshot());
  bool done = stands_at(&t, &task->id, task->at) &&
              pg::is_word(t.value(at[col::state]), "pending") && !is_expired(t, ttl, clock_now());
  const worker_slot* slot = done ? reserve() : nullptr;
  done = slot != nullptr && take(&t, begin_claims(slot, worker_name(slot)), nullptr);
  if (done) {
    task->at = t.written_at();
  }
  t.close();
  PopActiveSnapshot();
  CommandCounterIncrement();
  return done;
}

bool read_claimed(const handed_task& handed, int max_attempts, MemoryContext memory,
                  claimed_task* task) {
  return pg::call([&] {
    pg::table t;
    open_tasks(&t);
    PushActiveSnapshot(GetTransactionSnapshot());
    const bool found = find_task(&t, &handed.id, handed.at) &&
                       pg::is_word(t.value(at[col::state]), "in_progress") &&
                       !t.null(at[col::slot]) && t.int4(at[col::slot]) == number_of(my_slot) &&
                       t.int4(at[col::generation]) == static_cast<int32>(my_slot->generation);
    if (found) {
      MemoryContext before = MemoryContextSwitchTo(memory);
      *task = described(t, t.int4(at[col::attempt]), t.found_at(), max_attempts);
      MemoryContextSwitchTo(before);
    }
    t.close();
    PopActiveSnapshot();
    return found;
  });
}

}  // namespace underway
