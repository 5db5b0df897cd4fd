// Enqueue: tasks, in the caller's transaction. As the gateway, but that the usual call runs no
// statement: the queue is known (targets.cpp), and the rows go straight into the table. Runs in:
// any backend. Error discipline: a boundary. Invariant: what is checked, and against what, stands
// in sql/20_enqueue.sql; nothing of a user's is looked up or run as the extension's owner.
#include "clock.hpp"
#include "entry.hpp"
#include "pg/identity.hpp"
#include "pg/insertion.hpp"
#include "pg/statement.hpp"
#include "targets.hpp"
#include "wake.hpp"

#include <algorithm>

namespace underway {

namespace {

pg::statement prepare_task(
    "SELECT due, expires, holder FROM underway_internal.prepare_task($1, $2, $3, $4, $5, $6, $7, "
    "$8, $9, $10, $11, $12, $13)",
    UUIDOID, INT4OID, TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID,
    INTERVALOID, INTERVALOID, INTERVALOID, JSONBOID, JSONBOID);
pg::statement prepare_tasks(
    "SELECT due, expires, holders FROM underway_internal.prepare_tasks($1, $2, $3, $4, $5, $6, $7, "
    "$8, $9, $10, $11, $12, $13, $14)",
    UUIDARRAYOID, INT4OID, TIMESTAMPTZOID, INT4OID, INTERVALOID, TIMESTAMPTZOID, INT4OID,
    TEXTARRAYOID, TEXTARRAYOID, INTERVALOID, INTERVALOID, INTERVALOID, JSONBOID, JSONBOID);

// The arguments of underway.enqueue() by number. Those of enqueue_many() are arrays where tasks
// differ.
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

namespace column {
enum : int {
  id,
  queue_id,
  priority,
  run_at,
  enqueued_at,
  expires_at,
  enqueued_by,
  input,
  headers,
  key,
  group_key,
  timeout,
  heartbeat,
  retry,
  count
};
}
pg::insertion insert_task("task", "id", "queue_id", "priority", "run_at", "enqueued_at",
                          "expires_at", "enqueued_by", "input", "headers", "key", "group_key",
                          "timeout", "heartbeat", "retry");

// What all tasks of one call have in common.
struct order {
  Oid caller;
  pg::value args[arguments];
  bool known;  // the target
  target to;
  TimestampTz now;
  TimestampTz due;
  bool expires;
  TimestampTz expires_at;

  bool has_options() const noexcept {
    return std::any_of(args + input + 1, args + arguments,
                       [](const pg::value& v) { return !v.null; });
  }
  int urgency() const noexcept {
    return args[priority].null ? to.priority : DatumGetInt32(args[priority].datum);
  }
};

order begin_order(FunctionCallInfo fcinfo) {
  order o = {};
  o.caller = GetUserId();
  for (int n = 0; n < arguments; n++) {
    o.args[n] = pg::of_datum(fcinfo->args[n].value, fcinfo->args[n].isnull);
  }
  o.known = pg::call([&o] {
    require_preload();
    PreventCommandIfReadOnly("INSERT");
    pg::lock_first();
    return !o.args[queue].null && known_target(o.caller, o.args[queue].datum, &o.to);
  });
  o.now = o.due = transaction_clock();
  return o;
}

template <class F> void ask_sql(F&& f) {
  pg::as_owner owner(false);
  try {
    f();
  } catch (pg::error& e) {
    e.drop_context();
    throw;
  }
}

void find_target_of(order* o) {
  if (!o->known) {
    o->to = find_target(o->caller, o->args[queue].datum, o->args[queue].null);
    o->known = true;
  }
}

// From the arguments `delay` on, which both prepare functions take in the same order.
void add_options(const order& o, pg::value* args) noexcept {
  for (int n = delay; n < arguments; n++) {
    *args++ = o.args[n];
  }
}

void read_times(const pg::row& r, order* o) {
  o->due = r.time(1);
  o->expires = !r.null(2);
  o->expires_at = o->expires ? r.time(2) : 0;
}

pg::value nothing() {
  return pg::of_datum(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")), false);
}

// A row of `task` but for its id, input and keys.
void fill(const order& o, pg::value* values) {
  values[column::queue_id] = pg::of(o.to.queue_id);
  values[column::priority] = pg::of_datum(Int16GetDatum(static_cast<int16>(o.urgency())), false);
  values[column::run_at] = pg::of_time(o.due);
  values[column::enqueued_at] = pg::of_time(o.now);
  values[column::expires_at] = pg::of_datum(TimestampTzGetDatum(o.expires_at), !o.expires);
  values[column::enqueued_by] = pg::of_text(GetUserNameFromId(o.caller, false));
  values[column::headers] = o.args[headers];
  values[column::timeout] = o.args[timeout];
  values[column::heartbeat] = o.args[heartbeat];
  values[column::retry] = o.args[retry];
}

TimestampTz later(TimestampTz from, const Interval* by) {
  return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(from),
                                                 IntervalPGetDatum(by)));
}

void note_lapse(const order& o) {
  if (o.expires) {
    note_expiry(o.expires_at);
  } else if (may_lapse(o.to)) {
    note_expiry(later(Max(o.due, o.now), &o.to.ttl));
  }
}

void insert_one(const order& o, const pg_uuid_t& id) {
  pg::value values[column::count];
  fill(o, values);
  values[column::id] = pg::of(&id);
  values[column::input] = o.args[input].null ? nothing() : o.args[input];
  values[column::key] = o.args[key];
  values[column::group_key] = o.args[group_key];
  const pg::place at = insert_task.run(values);
  note_enqueued(o.to.queue_id, o.urgency(), {o.due, id}, at, o.to.limited ? &o.to.ttl : nullptr);
  note_lapse(o);
}

// The elements of an array argument, or none.
struct elements {
  Datum* data = nullptr;
  bool* nulls = nullptr;

  pg::value operator[](int n) const noexcept {
    return data == nullptr ? pg::value{} : pg::of_datum(data[n], nulls[n]);
  }
};

elements elements_of(const pg::value& array, Oid type) {
  elements e;
  if (!array.null) {
    int n = 0;
    deconstruct_array(DatumGetArrayTypeP(array.datum), type, -1, false, TYPALIGN_INT, &e.data,
                      &e.nulls, &n);
  }
  return e;
}

// holders: the ids of the tasks that have the keys.
void insert_many(const order& o, const pg_uuid_t* ids, const pg_uuid_t* holders, int n) {
  pg::value values[column::count];
  fill(o, values);
  const elements inputs = elements_of(o.args[input], JSONBOID);
  const elements keys = elements_of(o.args[key], TEXTOID);
  const elements group_keys = elements_of(o.args[group_key], TEXTOID);
  const pg::value no_input = nothing();
  int inserted = 0;
  const pg_uuid_t* first = nullptr;  // ids go up
  insert_task.run_many(n, [&](int row) -> const pg::value* {
    if (memcmp(&holders[row], &ids[row], sizeof *ids) != 0) {
      return nullptr;
    }
    first = first == nullptr ? &ids[row] : first;
    inserted++;
    values[column::id] = pg::of(&ids[row]);
    values[column::input] = inputs[row].null ? no_input : inputs[row];
    values[column::key] = keys[row];
    values[column::group_key] = group_keys[row];
    return values;
  });
  if (inserted > 0) {
    note_pending(o.to.queue_id, o.urgency(), {o.due, *first}, inserted);
    note_lapse(o);
  }
}

Datum array_of(const pg_uuid_t* ids, int n) {
  auto data = static_cast<Datum*>(palloc(sizeof(Datum) * static_cast<Size>(Max(n, 1))));
  for (int i = 0; i < n; i++) {
    data[i] = UUIDPGetDatum(&ids[i]);
  }
  return pg::array_of(UUIDOID, data, n);
}

}  // namespace

UNDERWAY_ENTRY(underway_enqueue) {
  order o = begin_order(fcinfo);
  const pg_uuid_t id = new_id();
  pg_uuid_t holder = id;  // of the key
  if (!o.known || o.has_options()) {
    ask_sql([&] {
      find_target_of(&o);
      if (o.has_options()) {
        pg::value args[13] = {pg::of(&id), pg::of(o.to.queue_id), pg::of_time(o.now)};
        add_options(o, args + 3);
        prepare_task.run(args, [&](const pg::row& r) {
          read_times(r, &o);
          holder = r.uuid(3);
        });
      }
    });
  }
  return pg::call([&] {
    if (memcmp(&holder, &id, sizeof id) == 0) {
      insert_one(o, id);
    }
    auto result = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
    *result = holder;
    return UUIDPGetDatum(result);
  });
}

namespace {

constexpr Size most_inputs = (MaxAllocSize - ARR_OVERHEAD_NONULLS(1)) / sizeof(pg_uuid_t);

pg_uuid_t* new_ids(int n) {
  if (static_cast<Size>(n) > most_inputs) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("inputs must have at most %d elements, not %d",
                           static_cast<int>(most_inputs), n),
                    errhint("Enqueue them in several calls.")));
  }
  auto ids = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t) * static_cast<Size>(Max(n, 1))));
  for (int i = 0; i < n; i++) {
    CHECK_FOR_INTERRUPTS();
    ids[i] = new_id();
  }
  return ids;
}

}  // namespace

UNDERWAY_ENTRY(underway_enqueue_many) {
  order o = begin_order(fcinfo);
  if (!o.known) {
    ask_sql([&o] { find_target_of(&o); });
  }
  int n = 0;
  pg::value dimensions;
  pg_uuid_t* ids = nullptr;
  pg::call([&] {
    // Flat copies of what a variable of PL/pgSQL holds: prepare_tasks() would make such arrays its
    // own, and free them.
    for (const int list :
         {static_cast<int>(input), static_cast<int>(key), static_cast<int>(group_key)}) {
      if (!o.args[list].null) {
        o.args[list].datum = PointerGetDatum(DatumGetArrayTypeP(o.args[list].datum));
      }
    }
    if (!o.args[input].null) {
      ArrayType* inputs = DatumGetArrayTypeP(o.args[input].datum);
      dimensions = pg::of(static_cast<int32>(ARR_NDIM(inputs)));
      n = ArrayGetNItems(ARR_NDIM(inputs), ARR_DIMS(inputs));
    }
    ids = new_ids(n);
  });
  pg_uuid_t* holders = ids;
  if (o.has_options() || dimensions.null || DatumGetInt32(dimensions.datum) > 1) {
    MemoryContext memory = CurrentMemoryContext;
    ask_sql([&] {
      pg::value args[14] = {{}, pg::of(o.to.queue_id), pg::of_time(o.now), dimensions};
      pg::call([&] { args[0] = pg::of_datum(array_of(ids, n), false); });
      add_options(o, args + 4);
      prepare_tasks.run(args, [&](const pg::row& r) {
        read_times(r, &o);
        if (!r.null(3)) {
          MemoryContext before = MemoryContextSwitchTo(memory);
          ArrayType* copy = DatumGetArrayTypePCopy(r.get(3).datum);
          holders = reinterpret_cast<pg_uuid_t*>(ARR_DATA_PTR(copy));
          MemoryContextSwitchTo(before);
        }
      });
    });
  }
  return pg::call([&] {
    insert_many(o, ids, holders, n);
    return array_of(holders, n);
  });
}

}  // namespace underway
