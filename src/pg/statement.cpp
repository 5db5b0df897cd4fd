#include "statement.hpp"

namespace underway::pg {

Datum array_of(Oid type, Datum* elements, int n, bool* nulls) {
  int16 length = 0;
  bool by_value = false;
  char alignment = 0;
  get_typlenbyvalalign(type, &length, &by_value, &alignment);
  int lower = 1;
  return PointerGetDatum(
      construct_md_array(elements, nulls, 1, &n, &lower, type, length, by_value, alignment));
}

uint64 statement::start(const value* args, bool read_only) {
  Datum values[max_args];
  char nulls[max_args];
  for (int i = 0; i < n_; i++) {
    values[i] = args[i].datum;
    nulls[i] = args[i].null ? 'n' : ' ';
  }
  SPI_connect();
  if (plan_ == nullptr) {
    SPIPlanPtr plan = SPI_prepare(sql_, n_, types_);
    if (plan == nullptr) {
      elog(ERROR, "underway: SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    }
    SPI_keepplan(plan);
    plan_ = plan;
  }
  int rc = SPI_execute_plan(plan_, values, nulls, read_only, 0);
  if (rc < 0) {
    elog(ERROR, "underway: SPI_execute_plan failed: %s", SPI_result_code_string(rc));
  }
  return SPI_processed;
}

namespace {
template <class F>
auto copied(const value& v, MemoryContext to, F&& copy) -> decltype(copy(v.datum)) {
  if (v.null) {
    return nullptr;
  }
  MemoryContext old = MemoryContextSwitchTo(to);
  auto result = copy(v.datum);
  MemoryContextSwitchTo(old);
  return result;
}
// Outside the class, where `text` is the server's type.
char* to_c_string(Datum d) { return TextDatumGetCString(d); }
}  // namespace

char* row::text(int column, MemoryContext to) const { return copied(get(column), to, to_c_string); }

Jsonb* row::jsonb(int column, MemoryContext to) const {
  return copied(get(column), to, [](Datum d) { return DatumGetJsonbPCopy(d); });
}

Interval* row::interval(int column, MemoryContext to) const {
  return copied(get(column), to, [](Datum d) {
    auto copy = static_cast<Interval*>(palloc(sizeof(Interval)));
    *copy = *DatumGetIntervalP(d);
    return copy;
  });
}

}  // namespace underway::pg
