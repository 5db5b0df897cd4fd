#include "sleep.hpp"

namespace underway {

int64 checked_timeout(const Interval* timeout, int64 longest) {
  const double ms = timeout == nullptr ? -1
                                       : static_cast<double>(timeout->time) / 1000.0 +
                                             (timeout->day + timeout->month * 30.0) * 86400000.0;
  if (ms < 0) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("timeout must be 0 or more"),
                    errhint("For example timeout => '10 s'.")));
  }
  return ms >= static_cast<double>(longest) ? longest : static_cast<int64>(ms);
}

bool sleep_until(TimestampTz end) {
  const long ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
  if (ms <= 0) {
    return false;
  }
  (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
  ResetLatch(MyLatch);
  CHECK_FOR_INTERRUPTS();
  return true;
}

void require_top_level(FunctionCallInfo fcinfo, const char* name, const char* instead) {
  const auto context = reinterpret_cast<CallContext*>(fcinfo->context);
  if (context == nullptr || !IsA(context, CallContext) || context->atomic) {
    ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
                    errmsg("%s cannot run inside a transaction block or a function", name),
                    errhint("CALL it as a statement of its own%s.", instead)));
  }
}

Datum text_row(FunctionCallInfo fcinfo, const char* value) {
  TupleDesc descriptor = nullptr;
  if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE) {
    elog(ERROR, "the procedure must return a record");
  }
  Datum values[1] = {value != nullptr ? CStringGetTextDatum(value) : Datum{0}};
  bool nulls[1] = {value == nullptr};
  return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

}  // namespace underway
