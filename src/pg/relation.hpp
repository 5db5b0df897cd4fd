// What is known of our tables and indexes between two uses: which they are, and where the columns
// are. Runs in: any backend, inside pg::call. Error discipline: server code, may raise; static, or
// trivially destructible. Invariant: what is known goes when the server says that the relation has
// changed (a relcache invalidation), which it does before anybody can have it open.
#pragma once

#include "server.hpp"

namespace underway::pg {

// How often the relation has changed, or an index of it, as far as this process has been told.
uint64 version_of(Oid relation);

// Whether what was found out about a relation still holds.
class knowledge {
 public:
  bool holds_of(Oid relation);
  void was_found(Oid relation);  // after holds_of() had said no

 private:
  Oid relation_ = InvalidOid;
  uint64 version_ = 0;
};

// Where a row stood when it was written. Whoever looks there sees by the file whether the table has
// been written anew since, and by what is there whether it is still the row.
struct place {
  ItemPointerData at;
  Oid file;
};

class relation {
 public:
  constexpr explicit relation(const char* name) noexcept : name_(name) {}
  Oid oid();  // raises when there is none

 private:
  const char* name_;
  Oid oid_ = InvalidOid;
  uint64 version_ = 0;
};

Oid relation_named(const char* name);

// 0: there is none.
AttrNumber column_named(TupleDesc columns, const char* name);

// Whether a text of a row is that word.
bool is_word(Datum text, const char* word);

// Those columns of a table that somebody speaks of, by their places in the list.
class columns {
 public:
  static constexpr int most = 40;
  template <class... Names>
  constexpr explicit columns(Names... names) noexcept : names_{names...}, count_(sizeof...(names)) {
    static_assert(sizeof...(names) <= most);
  }
  template <size_t count>
  constexpr explicit columns(const char* const (&names)[count]) noexcept : names_{}, count_(count) {
    static_assert(count <= most);
    for (size_t n = 0; n < count; n++) {
      names_[n] = names[n];
    }
  }
  void find(Relation table);  // that is open; raises when one is missing
  AttrNumber operator[](int n) const noexcept { return places_[n]; }
  int count() const noexcept { return count_; }

 private:
  const char* names_[most];
  int count_;
  AttrNumber places_[most] = {};
  knowledge found_;
};

}  // namespace underway::pg
