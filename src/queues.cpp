#include "queues.hpp"

#include "handler.hpp"
#include "pg/compat.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "settings.hpp"

namespace underway {

namespace {

#define SELECT_QUEUES                                                                              \
  "SELECT q.id, q.name, q.owner, q.handler_schema, q.handler_name, cardinality(q.handler_args), "  \
  "q.concurrency, q.batch,"                                                                        \
  " q.durability, q.keep, (q.retry ->> 'max_attempts')::int, q.timeout, q.ttl, q.settings, "       \
  "q.paused_at IS NOT NULL,"                                                                       \
  " q.dropped_at IS NOT NULL, q.home_system, q.home_database,"                                     \
  " q.dropped_at IS NOT NULL AND EXISTS (SELECT FROM underway_internal.task t WHERE t.queue_id = " \
  "q.id AND t.state IN ('pending', 'waiting')),"                                                   \
  " q.handler_owner, q.workflow,"                                                                  \
  " q.workflow AND EXISTS (SELECT FROM underway_internal.workflow w WHERE w.queue_id = q.id"       \
  "   AND w.on_change <> 'continue')"                                                              \
  " FROM underway_internal.queue q"

pg::statement select_queue(SELECT_QUEUES " WHERE q.id = $1", INT4OID);
pg::statement select_queues(
    SELECT_QUEUES
    " WHERE (q.dropped_at IS NULL AND (q.owner = $1 OR $1 IS NULL))"
    "    OR ($1 IS NULL AND (q.dropped_at > underway_internal.clock() - interval '1 day'"
    // Of a transaction that was open, or prepared, for as long as that.
    "        OR EXISTS (SELECT FROM underway_internal.task t WHERE t.queue_id = q.id"
    "          AND NOT t.waits AND t.state = 'pending'))) ORDER BY q.id",
    TEXTOID);

Oid owner_of_function(Oid function) {
  HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
  if (!HeapTupleIsValid(tuple)) {
    return InvalidOid;
  }
  const Oid owner = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple))->proowner;
  ReleaseSysCache(tuple);
  return owner;
}

bool may_log_in(Oid role) {
  HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
  const bool can =
      HeapTupleIsValid(tuple) && reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcanlogin;
  if (HeapTupleIsValid(tuple)) {
    ReleaseSysCache(tuple);
  }
  return can;
}

bool is_at_home(const pg::row& r) {
  return r.int8(17) == static_cast<int64>(GetSystemIdentifier()) &&
         r.int8(18) == static_cast<int64>(MyDatabaseId);
}

obstacle find_obstacle(queue_info* q, const pg::row& r, bool inlined) {
  if (!inlined && !is_at_home(r)) {
    return obstacle::held;
  }
  if (r.boolean(16)) {
    return obstacle::dropped;
  }
  if (r.boolean(15)) {
    return obstacle::paused;
  }
  if (q->handler_name == nullptr && !q->workflow) {
    return obstacle::external;
  }
  if (!OidIsValid(q->owner)) {
    return obstacle::owner_missing;
  }
  if (!inlined && !pg::nologin_can_work && !may_log_in(q->owner)) {
    return obstacle::owner_cannot_login;
  }
  return check_handler(q);
}

void read(queue_info* q, const pg::row& r, MemoryContext memory, bool inlined) {
  q->id = r.int4(1);
  q->name = r.text(2, memory);
  q->owner = get_role_oid(r.text(3, memory), true);
  q->owner_superuser = OidIsValid(q->owner) && superuser_arg(q->owner);
  q->handler_schema = r.text(4, memory);
  q->handler_name = r.text(5, memory);
  q->takes_input = !r.null(6) && r.int4(6) > 0;
  q->handler_owner = r.text(20, memory);
  q->concurrency = r.null(7) ? 0 : r.int4(7);
  q->batch = r.null(8) ? 1 : r.int4(8);
  const char* durability = r.text(9, memory);
  q->async = durability != nullptr && strcmp(durability, "async") == 0;
  q->keep_succeeded = strcmp(r.text(10, memory), "all") == 0;
  q->max_attempts = r.null(11) ? settings::default_max_attempts : r.int4(11);
  q->timeout = r.interval(12, memory);
  q->ttl = r.interval(13, memory);
  if (q->ttl == nullptr) {
    q->ttl = static_cast<Interval*>(MemoryContextAllocZero(memory, sizeof(Interval)));
    q->ttl->day = settings::default_ttl_days;
  }
  q->settings = r.jsonb(14, memory);
  q->workflow = r.boolean(21);
  q->on_change = r.boolean(22);
  q->why = find_obstacle(q, r, inlined);
  q->unfinished = r.boolean(19);
  q->entry = find_queue_entry(MyDatabaseId, q->id, q->why != obstacle::dropped || q->unfinished);
  q->average_ms = 0;
}

}  // namespace

bool is_trusted(const queue_info* q, Oid function, const char* maker_then) {
  const Oid maker = owner_of_function(function);
  return maker == q->owner || (maker_then != nullptr && maker == get_role_oid(maker_then, true)) ||
         pg::can_become(maker, q->owner);
}

obstacle check_handler(queue_info* q) {
  if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(q->owner))) {
    return obstacle::owner_missing;
  }
  if (!pg::may_connect(MyDatabaseId, q->owner)) {
    return obstacle::owner_cannot_login;
  }
  if (q->owner_superuser && !settings::superuser_queues) {
    return obstacle::superuser;
  }
  if (q->workflow) {
    return obstacle::none;
  }
  q->handler = find_handler(q->handler_schema, q->handler_name, q->takes_input);
  if (!OidIsValid(q->handler)) {
    return obstacle::handler_missing;
  }
  if (!pg::may_execute(q->handler, q->owner) ||
      !pg::may_use_schema(get_namespace_oid(q->handler_schema, false), q->owner)) {
    return obstacle::handler_forbidden;
  }
  if (!is_trusted(q, q->handler, q->handler_owner)) {
    return obstacle::handler_foreign;
  }
  return obstacle::none;
}

void queue_list::clear() noexcept {
  if (memory_ != nullptr) {
    MemoryContextReset(memory_);
  }
  queues_ = nullptr;
  count_ = 0;
}

void queue_list::load(Oid role) {
  if (memory_ == nullptr) {
    memory_ = pg::call([] {
      return AllocSetContextCreate(TopMemoryContext, "underway queues", ALLOCSET_DEFAULT_SIZES);
    });
  }
  clear();
  pg::as_owner owner(true);
  pg::value name;
  const bool exists = pg::call([&name, role] {
    if (!OidIsValid(role)) {
      return true;
    }
    const char* own_name = GetUserNameFromId(role, true);
    name = pg::of_text(own_name);
    return own_name != nullptr;
  });
  if (!exists) {
    return;
  }
  int room = 0;
  select_queues.run(&name, [this, &room](const pg::row& r) {
    if (r.boolean(16) && !is_at_home(r)) {
      return;
    }
    if (count_ == room) {
      const Size size = sizeof(queue_info) * static_cast<Size>(room == 0 ? 16 : room * 2);
      queues_ = static_cast<queue_info*>(room == 0 ? MemoryContextAllocHuge(memory_, size)
                                                   : repalloc_huge(queues_, size));
      room = room == 0 ? 16 : room * 2;
    }
    memset(static_cast<void*>(&queues_[count_]), 0, sizeof(queue_info));
    read(&queues_[count_], r, memory_, false);
    count_++;
  });
}

bool read_queue(int id, queue_info* q, MemoryContext memory) {
  bool found = false;
  pg::as_owner owner(true);
  const pg::value which = pg::of(id);
  *q = {};
  select_queue.run(&which, [&](const pg::row& r) {
    found = true;
    read(q, r, memory, true);
  });
  return found;
}

queue_info* queue_list::find(int id) noexcept {
  for (queue_info& q : *this) {
    if (q.id == id) {
      return &q;
    }
  }
  return nullptr;
}

}  // namespace underway
