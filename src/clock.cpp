#include "clock.hpp"

#include "entry.hpp"
#include "wake.hpp"

namespace underway {

namespace {

// How far this transaction is ahead, and what that was before each subtransaction that moved it: a
// rollback to a savepoint takes the clock back too.
struct clock_move {
  SubTransactionId made_in;
  int64 before;
};
constexpr int max_moves = 32;
bool has_begun = false;
int64 ahead = 0;
clock_move moves[max_moves];
int moves_count = 0;

void at_end(XactEvent event, void*) {
  if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE) {
    has_begun = false;
    ahead = 0;
    moves_count = 0;
  }
}

void at_subtransaction_end(SubXactEvent event, SubTransactionId id, SubTransactionId parent,
                           void*) {
  if (event == SUBXACT_EVENT_ABORT_SUB) {
    for (; moves_count > 0 && moves[moves_count - 1].made_in >= id; moves_count--) {
      ahead = moves[moves_count - 1].before;
    }
  } else if (event == SUBXACT_EVENT_COMMIT_SUB) {
    for (int n = moves_count; n > 0 && moves[n - 1].made_in >= id; n--) {
      moves[n - 1].made_in = parent;
    }
  }
}

void set_time(pg_uuid_t* id, uint64 stamp) noexcept {
  for (int n = 0; n < 6; n++) {
    id->data[n] = static_cast<unsigned char>(stamp >> (12 + 8 * (5 - n)));
  }
  id->data[6] = static_cast<unsigned char>(0x70 | (stamp >> 8 & 0x0f));
  id->data[7] = static_cast<unsigned char>(stamp);
}

// RFC 9562, section 6.2, method 3: milliseconds, then 12 bits of their fraction.
uint64 stamp_of(TimestampTz at) noexcept {
  const auto micros =
      static_cast<uint64>(at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
  return (micros / 1000) << 12 | (micros % 1000) * 4096 / 1000;
}

}  // namespace

TimestampTz transaction_clock() noexcept { return clock_now() + ahead; }

void begin_transaction_clock() noexcept { has_begun = true; }
bool has_transaction_clock() noexcept { return has_begun; }

void move_transaction_clock(TimestampTz to) noexcept {
  const int64 by = to - transaction_clock();
  if (by <= 0) {
    return;
  }
  const SubTransactionId now = GetCurrentSubTransactionId();
  if (moves_count == 0 || (moves[moves_count - 1].made_in != now && moves_count < max_moves)) {
    moves[moves_count++] = {now, ahead};
  }
  ahead += by;
}

void install_clock_callbacks() {
  RegisterXactCallback(at_end, nullptr);
  RegisterSubXactCallback(at_subtransaction_end, nullptr);
}

pg_uuid_t least_own_id() noexcept {
  constexpr int64 slack = 60 * USECS_PER_SEC;  // the clock may be set back a little
  pg_uuid_t id = {};
  set_time(&id, stamp_of(GetCurrentTransactionStartTimestamp() - slack));
  id.data[8] = 0x80;
  return id;
}

pg_uuid_t new_id() noexcept {
  static uint64 last = 0;
  uint64 stamp = stamp_of(GetCurrentTimestamp());
  if (stamp <= last) {  // the clock has not moved
    stamp = last + 1;
  }
  last = stamp;
  uint64 random = pg_prng_uint64(&pg_global_prng_state);
  pg_uuid_t id;
  set_time(&id, stamp);
  for (int n = 8; n < 16; n++, random >>= 8) {
    id.data[n] = static_cast<unsigned char>(random);
  }
  id.data[8] = static_cast<unsigned char>(0x80 | (id.data[8] & 0x3f));
  return id;
}

namespace {

void move_clock(int64 offset) noexcept {
  shared->clock_offset = offset;
  reset_all_marks(InvalidOid);
  for (int n = 0; n < shared->databases_size; n++) {
    if (shared->databases()[n].oid != InvalidOid) {
      everything_may_have_changed(shared->databases()[n].oid);
    }
  }
}

}  // namespace

UNDERWAY_ENTRY(underway_clock) {
  pg::call([] { require_preload(); });
  PG_RETURN_TIMESTAMPTZ(transaction_clock());
}

UNDERWAY_ENTRY(underway_has_run_inline) { PG_RETURN_BOOL(has_transaction_clock()); }

UNDERWAY_ENTRY(underway_new_id) {
  return pg::call([] {
    auto id = static_cast<pg_uuid_t*>(palloc(sizeof(pg_uuid_t)));
    *id = new_id();
    return UUIDPGetDatum(id);
  });
}

UNDERWAY_ENTRY(underway_set_clock) {
  pg::call([fcinfo] {
    require_preload();
    if (!superuser()) {
      ereport(
          ERROR,
          (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("only a superuser may set the clock"),
           errhint("The clock is for tests; it moves the time of every queue of the cluster.")));
    }
    if (!PG_ARGISNULL(0) && TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(0))) {
      ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the time must be finite"),
                      errhint("NULL goes back to the real clock.")));
    }
    move_clock(PG_ARGISNULL(0) ? 0 : PG_GETARG_TIMESTAMPTZ(0) - GetCurrentTimestamp());
  });
  PG_RETURN_TIMESTAMPTZ(clock_now());
}

}  // namespace underway
