#include "clock.hpp"

#include "entry.hpp"
#include "wake.hpp"

namespace underway {

pg_uuid_t new_id() noexcept {
  // RFC 9562, section 6.2, method 3: milliseconds, then 12 bits of their fraction; one more when
  // the clock has not moved.
  static uint64 last = 0;
  const auto micros = static_cast<uint64>(
      GetCurrentTimestamp() + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
  uint64 stamp = (micros / 1000) << 12 | (micros % 1000) * 4096 / 1000;
  if (stamp <= last) {
    stamp = last + 1;
  }
  last = stamp;
  uint64 random = pg_prng_uint64(&pg_global_prng_state);
  pg_uuid_t id;
  for (int n = 0; n < 6; n++) {
    id.data[n] = static_cast<unsigned char>(stamp >> (12 + 8 * (5 - n)));
  }
  id.data[6] = static_cast<unsigned char>(0x70 | (stamp >> 8 & 0x0f));
  id.data[7] = static_cast<unsigned char>(stamp);
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
  PG_RETURN_TIMESTAMPTZ(clock_now());
}

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
