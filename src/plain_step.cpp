#include "plain_step.hpp"

#include "archive_table.hpp"
#include "clock.hpp"
#include "dequeue.hpp"
#include "pg/insertion.hpp"
#include "step.hpp"
#include "task_table.hpp"
#include "wake.hpp"

namespace underway {

namespace {

namespace run {
enum : int {
  state,
  ending,
  error,
  parent,
  forked_from,
  priority,
  headers,
  key,
  group_key,
  started_by
};
}
pg::relation run_table("run");
pg::relation run_pkey("run_pkey");
pg::columns of_run("state", "ending", "error", "parent", "forked_from", "priority", "headers",
                   "key", "group_key", "started_by");

namespace step_result {
enum : int { state };
}
pg::relation result_table("step_result");
pg::relation result_pkey("step_result_pkey");
pg::relation result_seq("step_result_seq");
pg::columns of_result("state");
pg::insertion insert_result("step_result", "run_id", "step", "item", "state", "output", "task_id",
                            "ended_at", "seq", "undo");

pg::statement made_input("SELECT underway_internal.made_input($1, $2, $3)", UUIDOID, INT4OID,
                         TEXTOID);

pg::relation control_table("run_control");
pg::relation control_pkey("run_control_pkey");
pg::relation signal_table("signal");
pg::relation signal_pkey("signal_pkey");

void find_run(pg::table* t, pg::relation* index, const pg_uuid_t* run_id) {
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(run_id));
  t->scan(index->oid(), &key, 1);
}

class ending {
 public:
  ending(const queue_info* q, const claimed_task& task, const finished_task& result,
         const plain_end& how, following* next)
      : q_(q), task_(task), result_(result), how_(how), next_(next), now_(transaction_clock()) {}

  enum class came_to { ended, special, lost };

  came_to run_to_end() {
    came_to end = came_to::special;
    PushActiveSnapshot(GetTransactionSnapshot());
    runs_.open(&run_table, &of_run);
    open_tasks(&tasks_);
    find_run(&runs_, &run_pkey, &task_.run_id);
    if (runs_.next() && is_plain() && !is_asked_something() && (!is_last() || may_end()) &&
        runs_.lock() == pg::changed::yes && is_plain()) {
      if (take_out(&tasks_, &task_.id, task_.attempt, task_.at)) {
        end_step();
        end = came_to::ended;
      } else {
        end = came_to::lost;
      }
    }
    tasks_.close();
    runs_.close();
    PopActiveSnapshot();
    CommandCounterIncrement();
    return end;
  }

 private:
  bool is_last() const { return how_.next == nullptr; }

  bool is_plain() const {
    return pg::is_word(runs_.value(of_run[run::state]), "running") &&
           runs_.null(of_run[run::ending]) &&
           (!is_last() || (runs_.null(of_run[run::error]) && runs_.null(of_run[run::parent]) &&
                           runs_.null(of_run[run::forked_from]) &&
                           (q_->keep_succeeded || runs_.null(of_run[run::key]))));
  }

  bool is_asked_something() const {
    const database_entry* db = find_database(MyDatabaseId, false);
    if (db != nullptr && !db->asked && !has_noted_control()) {
      return false;
    }
    pg::table controls;
    controls.open(control_table.oid(), AccessShareLock);
    find_run(&controls, &control_pkey, &task_.run_id);
    const bool asked = controls.next();
    controls.close();
    return asked;
  }

  // Nothing of what its steps gave has to be kept with it. (Nothing else of it is under way:
  // without branches there is one step at a time.)
  bool may_end() const {
    bool may = true;
    pg::table results;
    results.open(&result_table, &of_result);
    find_run(&results, &result_pkey, &task_.run_id);
    while (may && results.next()) {
      may = pg::is_word(results.value(of_result[step_result::state]), "succeeded");
    }
    results.close();
    return may;
  }

  Jsonb* passed_on() const {
    return result_.outcome.output != nullptr ? result_.outcome.output : task_.input;
  }

  void end_step() {
    if (q_->keep_succeeded) {
      task_archive.open(tasks_, false);
      task_archive.put(tasks_, result_.outcome.output, result_.notices, now_);
      task_archive.close();
    }
    note_finished(task_.id);
    if (is_last()) {
      end_run();
    } else {
      record_result();
      begin_next();
    }
  }

  void record_result() {
    const pg::value values[] = {
        pg::of(&task_.run_id),
        pg::of_text(task_.step),
        pg::of(task_.item),
        pg::of_text("succeeded"),
        pg::of_datum(JsonbPGetDatum(passed_on()), false),
        pg::of(&task_.id),
        pg::of_time(now_),
        pg::of(static_cast<int64>(nextval_internal(result_seq.oid(), false))),
        pg::of_text(how_.to_undo ? "due" : nullptr)};
    insert_result.run(values);
  }

  void set(int column, Datum value, bool null = false) { tasks_.set(of_task[column], value, null); }
  void set(int column, int32 value) { set(column, Int32GetDatum(value)); }
  void set_null(int column) { set(column, Datum{0}, true); }
  void copy(int column, int of) { set(column, runs_.value(of_run[of]), runs_.null(of_run[of])); }

  Jsonb* fill_template() const {
    Jsonb* made = nullptr;
    MemoryContext memory = CurrentMemoryContext;
    const pg::value args[3] = {pg::of(&task_.run_id), pg::of(task_.version),
                               pg::of_text(how_.next)};
    made_input.run(args, [&](const pg::row& r) { made = r.jsonb(1, memory); });
    return made;
  }

  // What differs from the step before; both are steps of one run, worked by one queue.
  void begin_next() {
    namespace t = task_column;
    const Jsonb* input = how_.templated ? fill_template() : passed_on();
    const pg_uuid_t id = new_id();
    const Datum now = TimestampTzGetDatum(now_);
    const int priority =
        how_.priority < 0 ? DatumGetInt16(runs_.value(of_run[run::priority])) : how_.priority;
    tasks_.begin_copy();
    set(t::id, UUIDPGetDatum(&id));
    set(t::priority, Int16GetDatum(static_cast<int16>(priority)));
    set(t::state, CStringGetTextDatum(next_->wanted ? "in_progress" : "pending"));
    set(t::run_at, now);
    set(t::enqueued_at, now);
    set(t::attempt, next_->wanted ? 1 : 0);
    for (const int counter : {t::failures, t::crashes, t::losses, t::snoozes}) {
      set(counter, 0);
    }
    set(t::slot, Int32GetDatum(next_->wanted ? number_of(my_slot) : 0), !next_->wanted);
    set(t::generation, Int32GetDatum(next_->wanted ? static_cast<int32>(my_slot->generation) : 0),
        !next_->wanted);
    set(t::boot, Int64GetDatum(shared->boot), !next_->wanted);
    set(t::claimed_at, now, !next_->wanted);
    if (next_->wanted) {
      set(t::worker, CStringGetTextDatum(worker_name(my_slot)));
    } else {
      set_null(t::worker);
    }
    copy(t::enqueued_by, run::started_by);
    copy(t::headers, run::headers);
    copy(t::group_key, run::group_key);
    set(t::input, JsonbPGetDatum(input));
    set(t::timeout, IntervalPGetDatum(how_.timeout), how_.timeout == nullptr);
    set(t::retry, JsonbPGetDatum(how_.retry), how_.retry == nullptr);
    set(t::step, CStringGetTextDatum(how_.next));
    set_null(t::paused_by);
    tasks_.insert();
    if (next_->wanted) {
      describe_next(id, input);
    } else {
      note_pending(q_->id, priority, {now_, id}, 1);
    }
  }

  void describe_next(const pg_uuid_t& id, const Jsonb* input) {
    MemoryContext before = MemoryContextSwitchTo(next_->memory);
    next_->found = true;
    next_->task = {};
    claimed_task& t = next_->task;
    t.id = id;
    t.at = tasks_.written_at();
    t.attempt = 1;
    t.input = DatumGetJsonbPCopy(JsonbPGetDatum(input));
    t.headers = runs_.jsonb(of_run[run::headers]);
    if (how_.timeout != nullptr) {
      t.timeout = static_cast<Interval*>(palloc(sizeof(Interval)));
      *t.timeout = *how_.timeout;
    }
    t.last_attempt = (how_.max_attempts == 0 ? q_->max_attempts : how_.max_attempts) <= 1;
    t.of_run = true;
    t.run_id = task_.run_id;
    t.version = task_.version;
    t.step = pstrdup(how_.next);
    t.item = task_.item;
    MemoryContextSwitchTo(before);
  }

  void remove_all(pg::relation* table, pg::relation* index) const {
    pg::table t;
    t.open(table->oid());
    find_run(&t, index, &task_.run_id);
    while (t.next()) {
      (void)t.remove();
    }
    t.close();
  }

  void end_run() {
    if (q_->keep_succeeded) {
      run_archive.open(runs_, false);
      run_archive.put(runs_, passed_on(), nullptr, now_);
      run_archive.close();
    }
    (void)runs_.remove();
    remove_all(&result_table, &result_pkey);
    remove_all(&signal_table, &signal_pkey);
    note_finished(task_.run_id);
  }

  const queue_info* q_;
  const claimed_task& task_;
  const finished_task& result_;
  const plain_end& how_;
  following* next_;
  TimestampTz now_;
  pg::table runs_;
  pg::table tasks_;
};

}  // namespace

bool end_plainly(const queue_info* q, const claimed_task& task, const finished_task& result,
                 const plain_end& how, following* next) {
  const auto end = pg::call([&] { return ending(q, task, result, how, next).run_to_end(); });
  if (end == ending::came_to::lost) {
    raise_lost();
  }
  return end == ending::came_to::ended;
}

}  // namespace underway
