// Being the extension's owner for the length of one statement of ours.
// Runs in: any backend and our own processes. Error discipline: the constructor throws pg::error;
// the destructor does not. Invariant: no code of a user runs inside: search_path is pinned, and
// everything that we run is ours.
#pragma once

#include "error.hpp"

namespace underway::pg {

// The extension's owner, found once and again after an invalidation; raises when there is no
// extension.
Oid extension_owner();
// The extension's oid, or InvalidOid: looks in the catalog.
Oid extension_oid();

// What a statement of ours locks first, on the table `queue`: before_drop_extension (hooks.cpp)
// takes it too before any other, so that DROP EXTENSION and a statement of ours never wait for each
// other in a circle. Inside call().
void lock_first();

class as_owner {
 public:
  // quiet: also without lock timeout (our own processes).
  explicit as_owner(bool quiet);
  ~as_owner();
  as_owner(const as_owner&) = delete;
  as_owner& operator=(const as_owner&) = delete;

  // Who called, and with which search_path, while an as_owner lives.
  static Oid caller() noexcept;
  static const char* caller_search_path() noexcept;

 private:
  Oid user_;
  int security_;
  int nest_ = 0;
  as_owner* outer_;
  char* search_path_;
  bool seqscan_, bitmapscan_, hashjoin_, mergejoin_, nestloop_, indexscan_, indexonlyscan_, jit_,
      conforming_strings_;
  int plan_cache_mode_, lock_timeout_;
};

}  // namespace underway::pg
