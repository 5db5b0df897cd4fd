#include "worker.hpp"

#include "claim_record.hpp"
#include "clock.hpp"
#include "dequeue.hpp"
#include "execute.hpp"
#include "hand_over.hpp"
#include "held.hpp"
#include "my_queues.hpp"
#include "pg/identity.hpp"
#include "pg/transaction.hpp"
#include "process.hpp"
#include "settings.hpp"
#include "sleepers.hpp"
#include "suspects.hpp"

#include <algorithm>

extern "C" PGDLLEXPORT void underway_worker_main(Datum arg);

namespace underway {

namespace {

constexpr int max_batch = 1000;
bool kept = false;  // it has been idle for long enough to leave, and was needed

void leave_slot(int, Datum) {
  // The last of the shared-memory exits that matter: our transaction was aborted by the one
  // registered after this one.
  const int by = process::terminated_by();
  if (my_slot->died == death::asked && my_slot->running && (by == 0 || by == MyProcPid)) {
    my_slot->died = death::own;
  }
  const Oid database_oid = my_slot->database;
  if (my_slot->connecting) {
    my_slot->failed = my_slot->generation.load();
    my_slot->connecting = false;
  }
  leave_suspect();
  my_slot->pid = 0;
  // From here on it may be another worker's, unless somebody is about to hand us a task: who has
  // reserved us sees to the rest.
  slot_state was = slot_state::idle;
  if (my_slot->state.compare_exchange_strong(was, slot_state::busy) ||
      was != slot_state::reserved ||
      !my_slot->state.compare_exchange_strong(was, slot_state::abandoned)) {
    my_slot->state =
        my_slot->tasks > 0 || my_slot->revoked > 0 ? slot_state::dead : slot_state::free;
  }
  worker_left(database_oid);
}

// How long until it is too old. Workers that were started together are not replaced together: tasks
// would wait for the new ones.
long milliseconds_left() noexcept {
  const TimestampTz age = GetCurrentTimestamp() - my_slot->started_at;
  const long most = settings::worker_max_age * 1000L;
  return most - most / 64 * (number_of(my_slot) % 16) - static_cast<long>(age / 1000);
}

bool should_leave() noexcept {
  return my_slot->retire || my_database->holds > 0 || milliseconds_left() < 0;
}

// False: another of those that were claimed is not to be begun here.
bool begin(int i) { return (i == 0 || !should_leave()) && begin_held(i); }

// The place that this worker had under the queue's limit is free: one who sleeps can take it.
void free_place(const queue_info& q) noexcept {
  hold_nothing();
  if (q.concurrency > 0 && q.entry->earliest <= clock_now()) {
    (void)wake_idle(MyDatabaseId, my_slot->role, 1);
  }
}

int priority_at_work = 0;

// With the next step of the same run: unless something more urgent is due, or what is known of the
// queues is out of date.
bool may_go_on() {
  int priority = 0;
  return !should_leave() && is_current() &&
         (choose_queue(&priority) == nullptr || priority >= priority_at_work);
}

// What has been claimed at once.
struct lot {
  queue_info* q;
  int priority;
  int count;
  claimed_task* tasks;
  MemoryContext memory;  // of the tasks
};
lot in_hand;  // is executed, or is next
lot ahead;    // was claimed by the commit that ended the last of those

// While this one is busy, another goes on with whatever is due: also when no more was found, for
// somebody may have come while the limit was reached only by the places reserved here; and in other
// queues, since one worker is started, or woken by a timer, for all of them.
void pass_on() noexcept {
  int priority = 0;
  if (choose_queue(&priority) != nullptr && wake_idle(MyDatabaseId, my_slot->role, 1) == 0 &&
      !my_database->saturated) {
    poke_coordinator(my_database);
  }
}

// False: nothing to do.
bool claim() {
  int priority = 0;
  queue_info* q = choose_queue(&priority);
  if (q == nullptr) {
    return false;
  }
  if (q->entry->earliest == DT_NOBEGIN && survey(*q)) {
    // As at the end of a claim: the coordinator may have had no timer for what comes.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const TimestampTz earliest = q->entry->earliest;
    if (earliest > clock_now()) {
      poke_if(my_database, tell_of_timer(my_database, earliest));
    }
    return true;
  }
  const int n = reserve_places(*q, tasks_wanted(*q));
  if (n == 0) {
    return true;
  }
  in_hand.q = q;
  in_hand.priority = priority;
  in_hand.count = dequeue(q, priority, n, in_hand.memory, in_hand.tasks, is_current).count;
  if (q->why != obstacle::none) {
    tell_blocked();
  }
  if (in_hand.count == 0) {
    free_place(*q);
    return true;
  }
  hold(*q, in_hand.tasks, in_hand.count);
  return true;
}

// As dequeue() looks before it claims. q: null where it is not this worker's.
bool read_handed(const handed_task& handed, queue_info* q) {
  pg::transaction tx(pg::transaction::kind::ours);
  if (q != nullptr) {
    q->why = pg::call([q] { return check_handler(q); });
  }
  pg::call([] { pg::lock_first(); });
  const bool found =
      read_claimed(handed, q != nullptr ? q->max_attempts : 0, in_hand.memory, in_hand.tasks);
  tx.commit();
  if (q != nullptr && q->why != obstacle::none) {
    tell_blocked();
  }
  return found;
}

// What the transaction that enqueued it has claimed for this worker, which holds it already.
void take_handed(const handed_task& handed) {
  hold_handed();
  take_handed_record(handed.id);
  const bool may_stay = load_my_queues();
  my_slot->retire = my_slot->retire || !may_stay;
  queue_info* q = my_queue(my_slot->queue_id);
  // What was published to who has claimed it may be outdated.
  if (!may_stay || q == nullptr || q->entry == nullptr || q->why != obstacle::none ||
      q->concurrency > 0) {
    q = nullptr;
  }
  const bool found = read_handed(handed, q);
  if (found && q != nullptr && q->why == obstacle::none && (q->batch == 1 || begin_held(0))) {
    in_hand.q = q;
    in_hand.priority = handed.priority;
    in_hand.count = 1;
    return;
  }
  if (found) {
    give_back_unbegun(in_hand.tasks);
  }
  hold_nothing();
}

// More of the same queue, unless something else is more urgent. Under a limit others have their
// turn first.
void claim_ahead() {
  queue_info* q = in_hand.q;
  if (q->concurrency > 0 || q->entry->earliest == DT_NOBEGIN || should_leave() || !is_current() ||
      choose_queue(&ahead.priority) != q) {
    return;
  }
  ahead.q = q;
  ahead.count = claim_ahead(q, ahead.priority, tasks_wanted(*q), ahead.memory, ahead.tasks);
  my_slot->tasks += ahead.count;
}

void forget_ahead() {
  my_slot->tasks -= ahead.count;
  ahead.count = 0;
}

void work() {
  queue_info* q = in_hand.q;
  my_slot->fresh = false;
  pass_on();
  instr_time start;
  instr_time spent;
  INSTR_TIME_SET_CURRENT(start);
  priority_at_work = in_hand.priority;
  execute(q, in_hand.tasks, in_hand.count, in_hand.memory,
          {begin, may_go_on, claim_ahead, forget_ahead});
  leave_suspect();
  INSTR_TIME_SET_CURRENT(spent);
  INSTR_TIME_SUBTRACT(spent, start);
  if (my_slot->begun > 0) {
    const float8 each = INSTR_TIME_GET_MILLISEC(spent) / my_slot->begun;
    q->average_ms = q->average_ms == 0 ? each : 0.8 * q->average_ms + 0.2 * each;
  }
  if (q->why != obstacle::none) {
    tell_blocked();  // since the claim
  }
  give_back_unbegun(in_hand.tasks);
  in_hand.count = 0;
  std::swap(in_hand, ahead);
  if (in_hand.count > 0) {
    hold(*q, in_hand.tasks, in_hand.count);
  } else {
    free_place(*q);
  }
}

// What was claimed and is not to be begun here, or not by what was known.
void let_go() {
  if (in_hand.q->batch > 1) {
    give_back(in_hand.tasks, in_hand.count);  // nobody else can take these
  } else {
    give_back_unbegun(in_hand.tasks);
  }
  in_hand.count = 0;
  free_place(*in_hand.q);
}

// Of several that have been idle for long enough, one after the other decides: all at once would
// each count on the others to stay.
bool is_needed() noexcept {
  LWLockAcquire(registry_lock, LW_EXCLUSIVE);
  const bool needed = count_workers(MyDatabaseId, InvalidOid).staying <= settings::min_workers;
  my_slot->retire = my_slot->retire || !needed;
  LWLockRelease(registry_lock);
  return needed;
}

// Asleep until there is work, or for long enough to leave; one that is kept warm wakes no more than
// it must. False: leave.
bool idle() {
  my_slot->fresh = false;
  my_slot->state = slot_state::idle;
  // After this no enqueue can miss us: it finds us idle, or we find its row's mark.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  int priority = 0;
  bool stay = true;
  if (choose_queue(&priority) == nullptr && is_current() && !should_leave()) {
    pg::call([] { pgstat_report_activity(STATE_IDLE, nullptr); });
    const long most = kept ? milliseconds_left() + 1 : settings::worker_idle_timeout * 1000L;
    const bool woken = process::sleep(most, "UnderwayWorkerIdle");
    kept = false;
    doubt_blocked();
    stay = woken;
  }
  for (slot_state was = slot_state::idle;
       !my_slot->state.compare_exchange_strong(was, slot_state::busy); was = slot_state::idle) {
    if (was != slot_state::reserved) {
      return true;  // somebody gave us work, perhaps while we were about to leave
    }
    (void)process::sleep(3600 * 1000L, "UnderwayWorkerIdle");
  }
  if (stay) {
    return true;
  }
  kept = is_needed();
  return kept;
}

void run() {
  for (lot* l : {&in_hand, &ahead}) {
    pg::call([l] {
      l->memory = AllocSetContextCreate(TopMemoryContext, "underway tasks", ALLOCSET_DEFAULT_SIZES);
      l->tasks = static_cast<claimed_task*>(
          MemoryContextAlloc(TopMemoryContext, sizeof(claimed_task) * max_batch));
    });
  }
  MemoryContext loop = pg::call([] {
    return AllocSetContextCreate(TopMemoryContext, "underway worker", ALLOCSET_DEFAULT_SIZES);
  });
  pg::call([] {
    prepare_to_execute();
    prepare_to_hold();
  });
  int failures = 0;
  for (;;) {
    pg::call([&] {
      MemoryContextSwitchTo(loop);
      MemoryContextReset(loop);
      MemoryContextReset(ahead.memory);
      if (in_hand.count == 0) {
        MemoryContextReset(in_hand.memory);
      }
      process::house_keeping();
    });
    try {
      handed_task handed;
      if (in_hand.count == 0 && receive_handed(&handed)) {
        take_handed(handed);
      } else if (in_hand.count == 0) {
        if (should_leave() || !load_my_queues() || (!claim() && !idle())) {
          return;
        }
      } else if (should_leave() || !is_current() || !settings::enabled) {
        let_go();
      } else {
        work();
      }
      process::recovered(&failures);
    } catch (pg::error& e) {
      if (holds_tasks() || is_promised()) {
        throw;  // the coordinator takes them back
      }
      leave_suspect();
      my_slot->tasks = 0;
      process::endure(e, &failures);
    }
  }
}

void attach(int n) {
  my_slot = slot_at(n);
  uint32 generation = 0;
  memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof generation);
  before_shmem_exit(leave_slot, 0);
  slot_state given = slot_state::starting;
  if (my_slot->generation != generation ||
      !my_slot->state.compare_exchange_strong(given, slot_state::busy)) {
    cancel_before_shmem_exit(leave_slot, 0);
    proc_exit(0);  // the slot was given to somebody else while the postmaster was slow
  }
  my_slot->proc = pg::my_proc_number();
  my_slot->pid = MyProcPid;
  // Whoever holds the database first says so and then looks for our pid.
  my_database = find_database(my_slot->database, false);
  if (my_database == nullptr || my_database->holds > 0) {
    proc_exit(0);
  }
  my_slot->connecting = true;
}

}  // namespace

bool start_worker(worker_slot* slot, BackgroundWorkerHandle** handle) {
  BackgroundWorker worker = {};
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
  worker.bgw_restart_time = BGW_NEVER_RESTART;
  strlcpy(worker.bgw_library_name, "underway", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, "underway_worker_main", BGW_MAXLEN);
  snprintf(worker.bgw_name, BGW_MAXLEN, "underway worker %d", number_of(slot));
  strlcpy(worker.bgw_type, "underway worker", BGW_MAXLEN);
  worker.bgw_main_arg = Int32GetDatum(number_of(slot));
  const uint32 generation = slot->generation;
  memcpy(worker.bgw_extra, &generation, sizeof generation);
  worker.bgw_notify_pid = MyProcPid;
  return RegisterDynamicBackgroundWorker(&worker, handle);
}

}  // namespace underway

void underway_worker_main(Datum arg) {
  using namespace underway;
  attach(DatumGetInt32(arg));
  process::start(my_slot->database, my_slot->role, MyBgworkerEntry->bgw_name);
  my_slot->connecting = false;
  pg::boundary([] {
    try {
      run();
    } catch (pg::error&) {
      // DROP EXTENSION takes our tables away under us, and that is no error.
      if (process::extension_is_gone()) {
        return;
      }
      throw;
    }
  });
  proc_exit(0);
}
