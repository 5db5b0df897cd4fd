#include "step.hpp"

#include "dequeue.hpp"
#include "pg/compat.hpp"
#include "pg/identity.hpp"
#include "pg/statement.hpp"
#include "pg/transaction.hpp"
#include "plain_step.hpp"

#include <map>
#include <optional>
#include <string>
#include <tuple>

namespace underway {

namespace {

constexpr size_t most_cached = 10000;

pg::statement functions_of(
    "SELECT s.kind, s.handler_schema, s.handler_name, cardinality(s.handler_args), s.handler_owner,"
    " s.over_schema, s.over_name, cardinality(s.over_args), s.over_owner,"
    " s.undo_schema, s.undo_name, cardinality(s.undo_args), s.undo_owner"
    " FROM underway_internal.step s WHERE s.queue_id = $1 AND s.version = $2 AND s.name = $3",
    INT4OID, INT4OID, TEXTOID);
// A row with a null name: the run ends plainly after it. No row: nothing plain.
pg::statement plain_end_of(
    "SELECT s.undo_name IS NOT NULL OR s.undo_queue IS NOT NULL, n.name, n.priority, n.retry, "
    "n.timeout,"
    " (n.retry ->> 'max_attempts')::int, n.input IS NOT NULL"
    " FROM underway_internal.step s"
    " JOIN underway_internal.workflow_version v ON v.queue_id = s.queue_id AND v.version = "
    "s.version"
    " LEFT JOIN LATERAL (SELECT x.* FROM underway_internal.step x WHERE x.queue_id = s.queue_id"
    "   AND x.version = s.version AND x.position > s.position ORDER BY x.position LIMIT 1) n ON "
    "true"
    " WHERE s.queue_id = $1 AND s.version = $2 AND s.name = $3 AND v.linear AND s.kind = 'step'"
    " AND s.target_queue IS NULL"
    " AND (n.name IS NULL"
    "   OR n.kind = 'step' AND n.target_queue IS NULL AND n.run_if IS NULL)",
    INT4OID, INT4OID, TEXTOID);
pg::statement complete_in_sql(
    "SELECT * FROM underway_internal.complete_step($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    UUIDOID, INT4OID, JSONBOID, TEXTOID, TEXTOID, TEXTOID, INTERVALOID, TEXTOID, INT8OID, INT4OID,
    INT4OID);
pg::statement look("SELECT underway_internal.look_at_map($1, $2, $3)", UUIDOID, TEXTOID, INT4OID);

enum class part { itself, over, undo };
// queue, version, step
using key = std::tuple<int, int, std::string, part>;

struct known_step {
  step_function function;
  plain_end end;
};

MemoryContext cache_memory = nullptr;
auto& cache = *new std::map<key, known_step>;

// A copy of a column, in the cache's memory.
void set_function(step_function* f, const pg::row& r, int column) {
  f->schema = r.text(column, cache_memory);
  f->name = r.text(column + 1, cache_memory);
  f->takes_input = !r.null(column + 2) && r.int4(column + 2) > 0;
  f->maker = r.text(column + 3, cache_memory);
}

part part_of(const claimed_task& task) noexcept {
  if (task.phase != nullptr && strcmp(task.phase, "undo") == 0) {
    return part::undo;
  }
  return task.item < 0 ? part::over : part::itself;  // of a map; of others the two are the same
}

// What waited is ended by SQL alone, and so is a nudge.
bool has_function(const claimed_task& task) noexcept {
  return task.step != nullptr && (task.phase == nullptr || strcmp(task.phase, "undo") == 0 ||
                                  strcmp(task.phase, "finally") == 0);
}

// Of our own, or for run_inline a part of the one that is open.
class some_transaction {
 public:
  some_transaction() {
    if (!IsTransactionState()) {
      tx_.emplace(pg::transaction::kind::ours);
    }
  }
  void commit() {
    if (tx_) {
      tx_->commit();
    }
  }

 private:
  std::optional<pg::transaction> tx_;
};

plain_end read_end(const pg::value* args) {
  plain_end end = {};
  plain_end_of.run(args, [&](const pg::row& r) {
    end.possible = true;
    end.to_undo = r.boolean(1);
    end.next = r.text(2, cache_memory);
    end.priority = r.null(3) ? -1 : DatumGetInt16(r.get(3).datum);
    end.retry = r.jsonb(4, cache_memory);
    end.timeout = r.interval(5, cache_memory);
    end.max_attempts = r.null(6) ? 0 : r.int4(6);
    end.templated = r.boolean(7);
  });
  return end;
}

known_step read(const queue_info* q, const claimed_task& task, part which) {
  known_step known = {};
  step_function& f = known.function;
  bool found = false;
  some_transaction tx;
  {
    pg::as_owner owner(true);
    pg::value args[3] = {pg::of(q->id), pg::of(task.version), {}};
    pg::call([&] { args[2] = pg::of_text(task.step); });
    functions_of.run(args, [&](const pg::row& r) {
      found = true;
      const char* kind = r.text(1, CurrentMemoryContext);
      const bool map = strcmp(kind, "map") == 0;
      f.set = map && which == part::over;
      f.alone =
          (map && which == part::itself) || which == part::undo || strcmp(kind, "finally") == 0;
      set_function(&f, r, which == part::undo ? 10 : f.set ? 6 : 2);
    });
    known.end = read_end(args);
  }
  tx.commit();
  if (!found) {
    pg::call([&] {
      ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                      errmsg("version %d of workflow \"%s\" has no step \"%s\"", task.version,
                             q->name, task.step)));
    });
  }
  return known;
}

known_step* find(const queue_info* q, const claimed_task& task) {
  const part which = part_of(task);
  const key k = {q->id, task.version, task.step, which};
  auto it = cache.find(k);
  if (it == cache.end()) {
    if (cache.size() >= most_cached) {
      forget_steps();
    }
    if (cache_memory == nullptr) {
      cache_memory = pg::call([] {
        return AllocSetContextCreate(TopMemoryContext, "underway steps", ALLOCSET_DEFAULT_SIZES);
      });
    }
    it = cache.emplace(k, read(q, task, which)).first;
  }
  return &it->second;
}

bool decides_nothing(const result& r) noexcept {
  return r.what == action::done && r.delay.time == 0 && r.delay.day == 0 && r.delay.month == 0;
}

bool may_be_plain(const queue_info* q, const claimed_task& task, const result& r) noexcept {
  return has_function(task) && task.phase == nullptr && task.item < 0 && decides_nothing(r) &&
         !q->on_change && !IsolationUsesXactSnapshot();
}

}  // namespace

step_function* find_step(const queue_info* q, const claimed_task& task) {
  static step_function nothing = {};
  if (!has_function(task)) {
    return &nothing;
  }
  return &find(q, task)->function;
}

void forget_steps() noexcept {
  cache.clear();
  if (cache_memory != nullptr) {
    MemoryContextReset(cache_memory);
  }
}

namespace {

// What decides whether a function can be found, called and trusted.
uint64 catalog_changes() {
  static uint64 changes = 1;
  static bool watching = false;
  if (!watching) {
    for (const int cache : {PROCOID, NAMESPACEOID, AUTHOID, AUTHMEMMEMROLE, DATABASEOID}) {
      CacheRegisterSyscacheCallback(
          cache, [](Datum, int, uint32) { changes++; }, 0);
    }
    watching = true;
  }
  return changes;
}

Oid look_up(const queue_info* q, const step_function& f) {
  const Oid function = f.set ? find_set_function(f.schema, f.name, f.takes_input)
                             : find_handler(f.schema, f.name, f.takes_input);
  const char* name = quote_qualified_identifier(f.schema, f.name);
  if (!OidIsValid(function)) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
                    errmsg("the step's function %s(%s) does not exist, or is not fit to run", name,
                           f.takes_input ? "jsonb" : ""),
                    errhint("Create it again; then retry the run.")));
  }
  if (!pg::may_execute(function, q->owner) ||
      !pg::may_use_schema(get_namespace_oid(f.schema, false), q->owner)) {
    ereport(
        ERROR,
        (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
         errmsg("role \"%s\", which the workflow runs as, may not execute the step's function %s",
                GetUserNameFromId(q->owner, true), name),
         errhint("Grant EXECUTE on it, and USAGE on its schema; then retry the run.")));
  }
  if (!is_trusted(q, function, f.maker)) {
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("the step's function %s now belongs to another role", name),
                    errhint("If that is meant, define the workflow anew.")));
  }
  return function;
}

}  // namespace

Oid resolve(const queue_info* q, step_function* f) {
  return pg::call([&] {
    const uint64 now = catalog_changes();
    if (f->resolved_at != now || f->resolved_for != q->owner) {
      f->resolved_at = 0;
      f->resolved = look_up(q, *f);
      f->resolved_for = q->owner;
      f->resolved_at = now;
    }
    return f->resolved;
  });
}

void complete_step(const queue_info* q, const claimed_task& task, const finished_task& result,
                   following* next) {
  const struct result& r = result.outcome;
  if (may_be_plain(q, task, r)) {
    const plain_end& end = find(q, task)->end;
    if (end.possible && end_plainly(q, task, result, end, next)) {
      return;
    }
  }
  const char* decision = r.what == action::go_to    ? "go_to"
                         : r.what == action::finish ? "finish"
                                                    : "next";
  pg::value args[11] = {pg::of(&task.id), pg::of(task.attempt)};
  args[2] = pg::of_datum(JsonbPGetDatum(r.output), r.output == nullptr);
  pg::call([&] {
    args[3] = pg::of_text(result.notices);
    args[4] = pg::of_text(decision);
    args[5] = pg::of_text(r.step);
    args[7] = pg::of_text(next->wanted ? worker_name(my_slot) : nullptr);
  });
  args[6] = pg::of_datum(PointerGetDatum(&r.delay), !r.decided);
  if (next->wanted) {
    args[8] = pg::of(shared->boot);
    args[9] = pg::of(number_of(my_slot));
    args[10] = pg::of(static_cast<int32>(my_slot->generation));
  }
  bool held = false;
  complete_in_sql.run(args, [&](const pg::row& row) {
    held = row.boolean(1);
    next->look = row.text(2, next->memory);
    next->found = !row.null(3);
    if (!next->found) {
      return;
    }
    claimed_task& t = next->task;
    t = {};
    t.id = row.uuid(3);
    t.attempt = 1;
    t.input = row.jsonb(4, next->memory);
    t.headers = row.jsonb(5, next->memory);
    t.timeout = row.interval(6, next->memory);
    t.last_attempt = (row.null(7) ? q->max_attempts : row.int4(7)) <= 1;
    t.of_run = true;
    t.run_id = task.run_id;
    t.version = row.int4(8);
    t.step = row.text(9, next->memory);
    t.item = row.int4(10);
    t.phase = row.text(11, next->memory);
  });
  if (!held) {
    raise_lost();
  }
}

void look_at_map(const claimed_task& task, const char* map) {
  some_transaction tx;
  {
    pg::as_owner owner(true);
    pg::value args[3] = {pg::of(&task.run_id), {}, pg::of(task.item)};
    pg::call([&] { args[1] = pg::of_text(map); });
    look.run(args);
  }
  tx.commit();
}

}  // namespace underway
