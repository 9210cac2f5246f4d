// Talks with a model in the terminal.      cc -O2 examples/chat.c -o build/chat -lm -lpthread
//
//   build/chat -m model.gguf --system "You are a pirate."
//
// Ctrl-C stops an answer, Ctrl-D or /quit ends the program, /help lists the commands. Answers go to standard output, everything
// else to standard error. Exit code: 0, 1 failure, 2 wrong options.
#define QINFER_IMPLEMENTATION
#include "../qinfer.h"

#include <signal.h>
#ifdef _WIN32
#include <io.h>
#define isatty _isatty
#else
#include <unistd.h>
#endif

#define PROGRAM "chat"
#include "options.h"

// ---- settings ----

typedef struct settings {
  const char *model, *system, *format;
  int n_predict, n_threads, n_ctx;
  bool help;
  sampling sampling;
  guessing guessing;
} settings;

// Fills *c; 0 to go on, else what main returns, plus one.
static int read_settings(int argc, char **argv, settings *c) {
  const option options[] = {
    {"-m", "--model", TEXT, &c->model, 0, 0, "FILE  the model"},
    {"", "--system", TEXT, &c->system, 0, 0, "TEXT  what the model shall be"},
    {"", "--chat-template", TEXT, &c->format, 0, 0,
     "NAME  llama-2, llama-3, chatml, mistral, mistral-v3, mistral-tekken, phi-3, gemma, zephyr (default: the model's)"},
    {"-n", "--n-predict", INT, &c->n_predict, 0, INT_MAX, "N     tokens of an answer, 0 = until the model ends it (default 0)"},
    {"-t", "--threads", INT, &c->n_threads, 0, 256, "N     threads, 0 = cores, at most 8 (default 0)"},
    {"-c", "--ctx-size", INT, &c->n_ctx, 0, INT_MAX, "N     context in tokens, 0 = the model's, at most 4096 (default 0)"},
    {"-h", "--help", FLAG, &c->help, 0, 0, "      this text"},
  };
  option more[N_SAMPLING], guesses[N_GUESSING];
  const option_table tables[] = {{options, sizeof options / sizeof options[0]}, sampling_table(&c->sampling, more),
                                 guessing_table(&c->guessing, guesses)};
  if (!parse_options(argc, argv, tables, 3)) return 3;
  if (c->help) {
    print_help("Talks with a model in the terminal.\n\n  " PROGRAM " -m FILE [options]", tables, 3);
    return 1;
  }
  if (c->format && qi_chat_format_from_name(c->format) <= QI_CHAT_NONE) {
    fprintf(stderr, PROGRAM ": --chat-template %s: not one of those that --help lists\n", c->format);
    return 3;
  }
  if (!c->model) {
    fprintf(stderr, PROGRAM ": -m FILE is needed (--help lists all)\n");
    return 3;
  }
  int failed = read_sampling(&c->sampling);
  return failed ? failed + 1 : 0;
}

// ---- Ctrl-C ----

static qi_session *volatile answering; // whose answer Ctrl-C stops
static volatile sig_atomic_t interrupted;

// qi_cancel only stores a flag, so it may be called here.
static void on_interrupt(int sig) {
  qi_session *s = answering;
  interrupted = 1;
  if (s) qi_cancel(s);
#ifdef _WIN32
  signal(sig, on_interrupt);
#else
  (void)sig;
#endif
}

static void catch_interrupts(void) {
#ifdef _WIN32
  signal(SIGINT, on_interrupt);
#else
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_interrupt; // no SA_RESTART: waiting for a line ends
  sigaction(SIGINT, &action, NULL);
#endif
}

// ---- text ----

typedef struct text {
  char *bytes; // malloc
  size_t len, cap;
} text;

static bool text_add(text *t, const char *bytes, size_t n) {
  if (t->cap - t->len <= n) {
    size_t cap = (t->len + n) * 2 + 64;
    char *larger = (char *)realloc(t->bytes, cap);
    if (!larger) return false;
    t->bytes = larger;
    t->cap = cap;
  }
  memcpy(t->bytes + t->len, bytes, n);
  t->len += n;
  t->bytes[t->len] = 0;
  return true;
}

// A line without its newline; false at the end of input, or when Ctrl-C came.
static bool read_line(text *line) {
  char part[256];
  line->len = 0;
  text_add(line, "", 0);
  while (fgets(part, sizeof part, stdin)) {
    size_t n = strlen(part);
    bool end = n && part[n - 1] == '\n';
    if (!text_add(line, part, n - end)) return false;
    if (end) return true;
  }
  return line->len > 0;
}

// ---- the conversation ----

// The first n_done messages are in the session's context.
typedef struct conversation {
  const qi_model *model;
  qi_session *session;
  qi_chat_format format;
  qi_chat_message *messages; // malloc, their texts too
  size_t n, cap, n_done;
} conversation;

static bool add_message(conversation *c, qi_chat_role role, const char *bytes, size_t len) {
  if (c->n == c->cap) {
    size_t cap = c->cap * 2 + 16;
    qi_chat_message *larger = (qi_chat_message *)realloc(c->messages, cap * sizeof *larger);
    if (!larger) return false;
    c->messages = larger;
    c->cap = cap;
  }
  char *copy = (char *)malloc(len + 1);
  if (!copy) return false;
  memcpy(copy, bytes, len);
  copy[len] = 0;
  c->messages[c->n++] = (qi_chat_message){role, copy, len};
  return true;
}

static void drop_messages(conversation *c, size_t n) {
  while (c->n > n) free((void *)(uintptr_t)c->messages[--c->n].text);
  if (c->n_done > n) c->n_done = n;
}

static void forget(conversation *c, const char *system) {
  drop_messages(c, 0);
  qi_session_reset(c->session);
  if (system) add_message(c, QI_CHAT_SYSTEM, system, strlen(system));
}

// Computes the messages that are new. Ctrl-C may have come just before it.
static qi_result prompt(conversation *c, qi_error *err) {
  size_t n = 0;
  qi_result r = qi_chat_tokens(c->model, c->format, c->messages, c->n, c->n_done, NULL, 0, &n, err);
  qi_token *ids = r ? NULL : (qi_token *)malloc((n + 1) * sizeof *ids);
  if (!r && !ids) {
    snprintf(err->msg, sizeof err->msg, "out of memory");
    r = QI_ERR_OOM;
  }
  if (!r) r = qi_chat_tokens(c->model, c->format, c->messages, c->n, c->n_done, ids, n, &n, err);
  do {
    if (!r || r == QI_ERR_CANCELLED) r = qi_prompt_tokens(c->session, ids, n, err);
    if (!r) r = qi_step(c->session, 0, err);
  } while (r == QI_ERR_CANCELLED && !interrupted);
  free(ids);
  return r;
}

// The answer to the messages, written as it comes. It becomes a message, also when it was stopped.
static qi_result answer(conversation *c, qi_error *err) {
  text all = {NULL, 0, 0};
  qi_piece p;
  interrupted = 0;
  answering = c->session;
  qi_result r = prompt(c, err);
  bool begun = r == QI_OK;
  while (r == QI_OK) {
    r = qi_next(c->session, &p, err);
    if (r == QI_ERR_CANCELLED && !interrupted) r = QI_OK;
    else if (r == QI_OK || r == QI_END) {
      fwrite(p.text, 1, p.len, stdout);
      fflush(stdout);
      if (!text_add(&all, p.text, p.len)) r = QI_ERR_OOM;
    }
  }
  answering = NULL;
  if (begun) {
    printf("\n");
    fflush(stdout);
    add_message(c, QI_CHAT_ASSISTANT, all.bytes ? all.bytes : "", all.len);
    c->n_done = c->n;
  }
  free(all.bytes);
  return r == QI_END ? QI_OK : r;
}

// ---- files ----

// For each message a line "ROLE BYTES", its text, and a newline. Then "session FORMAT N BYTES": the first N messages are in the
// context of the saved session that follows.

static const char *const role_names[] = {"system", "user", "assistant"};

static bool write_bytes(void *user, const void *bytes, size_t n) { return fwrite(bytes, 1, n, (FILE *)user) == n; }

static void save(const conversation *c, const char *path) {
  FILE *f = fopen(path, "wb");
  const qi_writer writer = {write_bytes, f};
  qi_error err = {QI_OK, ""};
  size_t size = 0;
  for (size_t i = 0; f && i < c->n; i++) {
    fprintf(f, "%s %zu\n", role_names[c->messages[i].role], c->messages[i].len);
    fwrite(c->messages[i].text, 1, c->messages[i].len, f);
    fprintf(f, "\n");
  }
  bool good = f && !qi_session_save(c->session, NULL, 0, &size, &err);
  if (good) fprintf(f, "session %s %zu %zu\n", qi_chat_format_name(c->format), c->n_done, size);
  good = good && !qi_session_save_to(c->session, &writer, &err) && !ferror(f);
  if (f && fclose(f)) good = false;
  if (good) fprintf(stderr, "(%zu messages saved)\n", c->n);
  else fprintf(stderr, PROGRAM ": %s: %s\n", path, err.code && err.code != QI_ERR_IO ? err.msg : strerror(errno));
}

// One message at *at; false when there is none.
static bool load_message(conversation *c, const char *file, size_t len, size_t *at) {
  char role[16];
  size_t n = 0;
  int head = 0;
  const char *line_end = (const char *)memchr(file + *at, '\n', len - *at);
  if (!line_end || sscanf(file + *at, "%15s %zu%n", role, &n, &head) != 2 || file + *at + head != line_end) return false;
  size_t begin = *at + (size_t)head + 1;
  int r = 0;
  while (r < 3 && strcmp(role, role_names[r]) != 0) r++;
  if (r == 3 || n >= len - begin || file[begin + n] != '\n') return false;
  *at = begin + n + 1;
  return add_message(c, (qi_chat_role)r, file + begin, n);
}

// Where a session begins at `at`: its bytes, and the messages in its context. False when there is none, or of another format.
static bool find_session(const conversation *c, const char *file, size_t len, size_t *at, size_t *n_done) {
  char format[32];
  size_t size = 0;
  int head = 0;
  if (sscanf(file + *at, "session %31s %zu %zu%n", format, n_done, &size, &head) != 3) return false;
  if (file[*at + (size_t)head] != '\n') return false;
  *at += (size_t)head + 1;
  return size == len - *at && strcmp(format, qi_chat_format_name(c->format)) == 0;
}

// The session as it was. Where that cannot be, the messages are computed again with the next one.
static void load_session(conversation *c, const char *file, size_t len, size_t at) {
  qi_error err = {QI_OK, "the file holds no session for this chat template"};
  size_t n_done = 0;
  bool found = find_session(c, file, len, &at, &n_done) && n_done <= c->n;
  bool good = found && !qi_session_load(c->session, file + at, len - at, &err);
  if (!good) qi_session_reset(c->session);
  c->n_done = good ? n_done : 0;
  fprintf(stderr, "(%zu messages loaded%s%s)\n", c->n, good ? "" : ", to be computed again: ", good ? "" : err.msg);
}

// The conversation goes on where the file ends; a damaged one changes nothing.
static void load(conversation *c, const char *path) {
  size_t len = 0, at = 0, before = c->n;
  char *file = read_file(path, &len);
  bool good = file != NULL;
  while (good && at < len && strncmp(file + at, "session ", 8) != 0) good = load_message(c, file, len, &at);
  if (file && !good) fprintf(stderr, PROGRAM ": %s: no conversation from byte %zu on\n", path, at);
  if (!good) {
    drop_messages(c, before);
  } else {
    for (size_t i = 0; i < before; i++) free((void *)(uintptr_t)c->messages[i].text);
    memmove(c->messages, c->messages + before, (c->n - before) * sizeof *c->messages);
    c->n -= before;
    load_session(c, file, len, at);
  }
  free(file);
}

// ---- the loop ----

// False at /quit.
static bool command(conversation *c, const char *line, const char *system) {
  if (strcmp(line, "/quit") == 0) return false;
  if (strcmp(line, "/reset") == 0) forget(c, system);
  else if (strncmp(line, "/save ", 6) == 0) save(c, line + 6);
  else if (strncmp(line, "/load ", 6) == 0) load(c, line + 6);
  else fprintf(stderr, "/save FILE and /load FILE: the conversation and what is computed of it; /reset: a new one; "
                       "/quit or Ctrl-D: the end\n");
  return true;
}

// What fails is said, and the conversation goes on as it was.
static void talk(conversation *c, const char *system) {
  text line = {NULL, 0, 0};
  qi_error err = {0};
  bool going = true, terminal = isatty(0);
  while (going) {
    interrupted = 0;
    if (terminal) fprintf(stderr, "> ");
    if (!read_line(&line)) {
      if (!interrupted) break;
      clearerr(stdin);
      fprintf(stderr, "\n(/quit or Ctrl-D ends the program)\n");
    } else if (line.bytes[0] == '/') {
      going = command(c, line.bytes, system);
    } else if (line.len) {
      size_t before = c->n;
      if (!add_message(c, QI_CHAT_USER, line.bytes, line.len)) break;
      qi_result r = answer(c, &err);
      if (r == QI_ERR_CANCELLED) fprintf(stderr, "(stopped)\n");
      else if (r == QI_ERR_CONTEXT) fprintf(stderr, PROGRAM ": %s (/reset begins anew, -c sets the size)\n", err.msg);
      else if (r) fprintf(stderr, PROGRAM ": %s\n", err.msg);
      if (c->n_done < c->n) drop_messages(c, before); // was not computed
    }
  }
  free(line.bytes);
}

static int run(settings *c) {
  qi_model_desc md = {.path = c->model};
  qi_session_desc sd = {.n_ctx = c->n_ctx, .n_threads = c->n_threads, .n_predict = c->n_predict};
  qi_error err = {0};
  qi_model *m = NULL;
  conversation talk_to = {0};
  qi_result r = qi_model_open(&m, &md, &err);
  if (!r && !c->format) r = qi_chat_detect(m, &talk_to.format, &err);
  if (!r && c->format) talk_to.format = (qi_chat_format)qi_chat_format_from_name(c->format);
  if (!r) r = open_sampling(&c->sampling, m, &err);
  sd.sampler = c->sampling.desc;
  if (!r) r = open_guessing(&c->guessing, &sd, &err);
  if (!r) r = qi_session_open(&talk_to.session, m, &sd, &err);
  if (!r) r = qi_session_constrain(talk_to.session, c->sampling.mt, c->sampling.jump, &err);
  if (r) {
    fprintf(stderr, PROGRAM ": %s%s\n", err.msg, r == QI_ERR_UNSUPPORTED && !c->format ? " (--chat-template NAME)" : "");
  } else {
    talk_to.model = m;
    catch_interrupts();
    forget(&talk_to, c->system);
    talk(&talk_to, c->system);
    drop_messages(&talk_to, 0);
    qi_session_stats st;
    qi_session_get_stats(talk_to.session, &st);
    print_guessing(&st);
  }
  free(talk_to.messages);
  qi_session_close(talk_to.session);
  close_sampling(&c->sampling);
  close_guessing(&c->guessing);
  qi_model_close(m);
  return r ? 1 : 0;
}

int main(int argc, char **argv) {
  settings c = {.sampling = sampling_defaults};
  int stop = read_settings(argc, argv, &c);
  return stop ? stop - 1 : run(&c);
}
