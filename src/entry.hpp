// How a function that SQL can call is written: UNDERWAY_ENTRY(name) { body }, where the body may
// throw. Runs in: any backend. Error discipline: the body is a pg::boundary.
#pragma once

#include "pg/error.hpp"
#include "shared.hpp"

// The name is global: the server finds it by dlsym.
#define UNDERWAY_ENTRY(name)                                                   \
  extern "C" {                                                                 \
  PG_FUNCTION_INFO_V1(name);                                                   \
  PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                    \
  }                                                                            \
  static Datum name##_body([[maybe_unused]] FunctionCallInfo fcinfo);          \
  Datum name(PG_FUNCTION_ARGS) {                                               \
    return ::underway::pg::boundary([fcinfo] { return name##_body(fcinfo); }); \
  }                                                                            \
  static Datum name##_body([[maybe_unused]] FunctionCallInfo fcinfo)

namespace underway {

// Raises, with the line for postgresql.conf, unless the library was loaded at server start.
void require_preload();

}  // namespace underway
