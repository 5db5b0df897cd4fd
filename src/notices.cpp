#include "notices.hpp"

namespace underway {

namespace {

constexpr int room = 8192;
char text[room + 1];
int used = 0;
const PQcommMethods* real = nullptr;

void append(const char* s) noexcept {
  const int n = Min(static_cast<int>(strlen(s)), room - used);
  // The server has converted it for a client that the handler made up with SET client_encoding.
  const bool converted = pg_get_client_encoding() != GetDatabaseEncoding();
  const int whole = converted ? n : pg_mbcliplen(s, static_cast<int>(strlen(s)), n);
  memcpy(text + used, s, static_cast<size_t>(whole));
  if (converted) {
    for (int i = used; i < used + whole; i++) {
      text[i] = IS_HIGHBIT_SET(text[i]) ? '?' : text[i];
    }
  }
  used += whole;
  text[used] = '\0';
}

// A NoticeResponse is fields of one type byte and a string (protocol chapter of the manual).
void take(const char* s, size_t length) noexcept {
  const char* const end = s + length;
  const char* severity = "";
  const char* message = "";
  while (s < end && *s != '\0') {
    const char field = *s++;
    if (field == PG_DIAG_SEVERITY) {
      severity = s;
    } else if (field == PG_DIAG_MESSAGE_PRIMARY) {
      message = s;
    }
    s += strlen(s) + 1;
  }
  if (used > 0) {
    append("\n");
  }
  append(severity);
  append(": ");
  append(message);
}

void reset() {}
int flush() { return 0; }
bool pending() { return false; }
int put(char type, const char* s, size_t length) {
  if (type == 'N') {
    take(s, length);
  }
  return 0;
}
void put_later(char type, const char* s, size_t length) { (void)put(type, s, length); }

const PQcommMethods ours = {reset, flush, flush, pending, put, put_later};

}  // namespace

void start_notices() noexcept {
  used = 0;
  text[0] = '\0';
  if (real == nullptr) {
    real = PqCommMethods;
    PqCommMethods = &ours;
    whereToSendOutput = DestRemote;
    FrontendProtocol = PG_PROTOCOL_LATEST;
  }
}

const char* stop_notices() noexcept {
  if (real != nullptr) {
    PqCommMethods = real;
    real = nullptr;
    whereToSendOutput = DestNone;
  }
  return used > 0 ? text : nullptr;
}

}  // namespace underway
