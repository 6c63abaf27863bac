# netserver. `make help` lists the targets.

CARGO ?= cargo
CXX ?= c++
PYTHON ?= python3
CFLAGS ?= -O2 -g
STRICT := -Wall -Wextra -Wpedantic -Wshadow -Werror

PREFIX ?= /usr/local
# In /usr a distribution with several architectures has a folder of libraries for each.
MULTIARCH = $(if $(filter /usr,$(PREFIX)),$(shell $(CC) -print-multiarch 2>/dev/null))
LIBDIR ?= $(PREFIX)/lib$(MULTIARCH:%=/%)
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/netserver
INSTALL ?= install
STRIP ?= strip
OBJCOPY ?= objcopy

SERVICE ?= 5000
MODE ?=
TLS ?=

# Version and soname come from Cargo.toml alone: for 1.4.2 the soname is 1, for 0.4.2 it is 0.
VERSION := $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR := $(firstword $(subst ., ,$(VERSION)))
SONAME := libnetserver.so.$(MAJOR)
RUST_VERSION := $(shell sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
# This feature has the C ABI, and prints no panic message on the host program's stderr.
CARGO_OPTIONS := --features silent-panics

CARGO_TARGET_DIR ?= target
# The library without TLS, in a folder of its own, and for size rather than speed.
NO_TLS ?=
ifneq ($(NO_TLS),)
CARGO_OPTIONS += --no-default-features
override CARGO_TARGET_DIR := $(patsubst %/no-tls,%,$(CARGO_TARGET_DIR))/no-tls
export CARGO_PROFILE_RELEASE_OPT_LEVEL ?= s
endif
export CARGO_TARGET_DIR
# The source of `make dist` has all crates: nothing is fetched. Its libraries have the same bytes in
# whatever folder they are built.
VENDORED := $(wildcard vendor)
ifneq ($(VENDORED),)
CARGO_OPTIONS += --offline --frozen
SAME_PATHS := -ffile-prefix-map=$(CURDIR)=.
REMAP := --remap-path-prefix=$(CURDIR)=.
export RUSTFLAGS := $(filter-out $(REMAP),$(RUSTFLAGS)) $(REMAP)
endif
# On the command line it names what `make fuzz` runs.
FUZZED := $(if $(filter command,$(word 1,$(origin TARGET))),$(TARGET))
override TARGET := $(CARGO_TARGET_DIR)
# Cargo has a folder for each machine that it builds for by name; `make test-i386` does so.
BUILT := $(CARGO_BUILD_TARGET:%=%/)release
OUT := $(TARGET)/$(BUILT)
SO := $(OUT)/libnetserver.so
ARCHIVE := $(OUT)/libnetserver.a
NATIVE_LIBS := $(OUT)/libnetserver.libs
NOTICES := $(OUT)/LICENSES-CRATES
HEADER := include/netserver.h
CXX_HEADER := include/netserver.hpp

RUST_SOURCES := Cargo.toml $(wildcard Cargo.lock build.rs) $(shell find src -name '*.rs')
THROWAWAY := $(TARGET)/throwaway-cert
EXAMPLES := $(patsubst examples-c/%.c,%,$(wildcard examples-c/*.c))
EXAMPLE_PROGRAMS := $(EXAMPLES:%=$(TARGET)/examples-c/%)
C_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/*.c))
C_TEST_PROGRAMS := $(C_TESTS:%=$(TARGET)/tests-c/%)
HOSTS := $(patsubst tests/hosts/%.c,$(TARGET)/tests-c/hosts/%,$(wildcard tests/hosts/*.c))
CAMPAIGN_SERVER := $(TARGET)/tests-c/campaigns/server
PROXIES_SERVER := $(TARGET)/tests-c/proxies/server
CAMPAIGN_CLIENTS := $(TARGET)/tests-c/campaigns/peers
CAMPAIGNS := $(patsubst tests/campaigns/%.py,%,$(filter-out %/common.py %/held.py,$(wildcard tests/campaigns/*.py)))

# Programs find the library by a path from where they are, so the tree may be moved.
LINK = -L$(OUT) -lnetserver -pthread -Wl,-rpath,'$$ORIGIN/$(1)$(BUILT)'

.DELETE_ON_ERROR:
.PHONY: build help run docs test faults bad-network fuzz fuzz-minimise held test-package abi dist test-dist test-bindings test-status-page test-cluster cluster lint oracle run-oracle campaign-oracle sim sim-epoll sim-teeth loom loom-teeth install uninstall clean deps \
	c-tests hosts guide examples-rust asan-programs campaign-server proxies-server asan hammer-asan hammer-tsan memcheck audit bench bench-deps bench-quick bench-tls bench-bindings campaigns $(CAMPAIGNS:%=campaign-%)

build: $(SO) $(ARCHIVE) $(NOTICES) $(EXAMPLE_PROGRAMS) ## build the shared and the static library and the C examples (default) [NO_TLS=1, in target/no-tls]

help: ## print this list
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo '  make campaign-NAME  one of: $(CAMPAIGNS)'

# -- libraries --------------------------------------------------------------------------------
# The shared library is linked from the archive: so its symbols have a version, which the compiler
# gives none, and everything is compiled once.

# The C code of the cryptography gets a stack protector, as distributions build theirs.
HARDENED = CFLAGS="$${CFLAGS-} -fstack-protector-strong $(SAME_PATHS)"
NEED_CARGO = @scripts/need-cargo $(RUST_VERSION) $(CARGO)
# $(call PROGRESS,NAME,SECONDS) before a command that takes about so long.
PROGRESS = @$(PYTHON) scripts/progress $(1) $(2)
# nodelete: threads that have used the library have destructors in it.
SO_FLAGS := -Wl,-O1,--gc-sections,--as-needed,-Bsymbolic-functions,-z,relro,-z,now,-z,nodelete,-z,noexecstack,--build-id=sha1,-soname,$(SONAME)

$(ARCHIVE): $(RUST_SOURCES) scripts/make-archive tests/c/symbols.txt
	$(NEED_CARGO)
	$(HARDENED) $(CARGO) rustc --release --lib $(CARGO_OPTIONS) --crate-type staticlib -- --print native-static-libs=$(abspath $(NATIVE_LIBS))
	scripts/make-archive $(OUT)/libnet_server.a $@

$(SO): $(ARCHIVE) Makefile
	echo 'NETSERVER_$(MAJOR) { global: ns_*; local: *; };' > $@.versions
	$(CC) -shared $(SO_FLAGS) -Wl,--version-script=$@.versions $(LDFLAGS) -o $@ \
		-Wl,--whole-archive $< -Wl,--no-whole-archive $$(cat $(NATIVE_LIBS))
	ln -sf libnetserver.so $(OUT)/$(SONAME)

# After the libraries: two cargos would wait for each other.
$(NOTICES): Cargo.lock scripts/components | $(ARCHIVE)
	CARGO=$(CARGO) scripts/components notices $(CARGO_OPTIONS) > $@

# -- C programs -------------------------------------------------------------------------------

$(TARGET)/examples-c/cluster/chat: examples-c/cluster/chat.c examples-c/cluster/redis.h examples-c/serve.h $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c99 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../../) -lhiredis

$(TARGET)/examples-c/%: examples-c/%.c $(wildcard examples-c/*.h) $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c99 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../)

$(TARGET)/guide/%: docs/guide/code/%.c docs/guide/code/start.h $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../)

$(TARGET)/tests-c/proxies/%: tests/proxies/%.c $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../../)

$(CAMPAIGN_CLIENTS): tests/campaigns/peers.c
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -o $@ $< -lssl -lcrypto

$(TARGET)/tests-c/campaigns/%: tests/campaigns/%.c $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../../)

# Hosts in other libraries' loops. Those have headers that our warnings would find fault with.
HOST_FLAGS_uv = $(shell pkg-config --cflags --libs libuv)
HOST_FLAGS_ev = -lev
HOST_FLAGS_glib = $(patsubst -I%,-isystem %,$(shell pkg-config --cflags --libs glib-2.0))

$(TARGET)/tests-c/hosts/%: tests/hosts/%.c tests/hosts/host.h $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../../) $(HOST_FLAGS_$*)

$(TARGET)/tests-c/%: tests/c/%.c $(wildcard tests/c/*.h) $(HEADER) $(SO)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -Iinclude -o $@ $< $(call LINK,../)

c-tests: $(C_TEST_PROGRAMS)

campaign-server: $(CAMPAIGN_SERVER) $(CAMPAIGN_CLIENTS)

proxies-server: $(PROXIES_SERVER)

hosts: $(HOSTS)

guide: $(patsubst docs/guide/code/%.c,$(TARGET)/guide/%,$(wildcard docs/guide/code/*.c))

# The same programs with AddressSanitizer. They link the static library, which is also built with it
# and with debug assertions. Stable Rust has the sanitizer and its runtime but not the flag, so this
# rule, and no other, sets RUSTC_BOOTSTRAP. The C compiler links its own runtime, which has the same
# interface.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
ASAN_ARCHIVE := $(TARGET)/asan/libnetserver.a
ASAN_CFLAGS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
ASAN_LINK = $(ASAN_ARCHIVE) $$(cat $(NATIVE_LIBS)) -pthread

$(ASAN_ARCHIVE): $(RUST_SOURCES) $(ARCHIVE)
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_PROFILE_DEV_OPT_LEVEL=1 \
		$(CARGO) rustc --lib $(CARGO_OPTIONS) --crate-type staticlib --target $(HOST) --target-dir $(TARGET)/asan/rust
	$(INSTALL) -m 644 $(TARGET)/asan/rust/$(HOST)/debug/libnet_server.a $@

$(TARGET)/asan/examples-c/%: examples-c/%.c $(wildcard examples-c/*.h) $(HEADER) $(ASAN_ARCHIVE)
	@mkdir -p $(@D)
	$(CC) -std=c99 $(STRICT) $(ASAN_CFLAGS) -Iinclude -o $@ $< $(ASAN_LINK)

$(TARGET)/asan/tests-c/%: tests/c/%.c $(wildcard tests/c/*.h) $(HEADER) $(ASAN_ARCHIVE)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(ASAN_CFLAGS) -Iinclude -o $@ $< $(ASAN_LINK)

$(TARGET)/asan/tests-c/proxies/%: tests/proxies/%.c $(HEADER) $(ASAN_ARCHIVE)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(ASAN_CFLAGS) -Iinclude -o $@ $< $(ASAN_LINK)

$(TARGET)/asan/tests-c/campaigns/%: tests/campaigns/%.c $(HEADER) $(ASAN_ARCHIVE)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(ASAN_CFLAGS) -Iinclude -o $@ $< $(ASAN_LINK)

asan-programs: $(TARGET)/asan/tests-c/campaigns/server $(TARGET)/asan/tests-c/proxies/server $(EXAMPLES:%=$(TARGET)/asan/examples-c/%) $(C_TESTS:%=$(TARGET)/asan/tests-c/%)

examples-rust:
	$(NEED_CARGO)
	$(CARGO) build --examples

# -- use --------------------------------------------------------------------------------------

run: build ## serve with the echo example [SERVICE=5000] [MODE=-n for non-blocking] [TLS=1]; Ctrl-C ends it
	@$(if $(TLS),scripts/throwaway-cert $(THROWAWAY))
	@scripts/how-to-talk $(SERVICE) $(TLS)
	@exec $(TARGET)/examples-c/echo $(MODE) $(if $(TLS),--cert $(THROWAWAY)/cert.pem --key $(THROWAWAY)/key.pem) $(SERVICE)

deps: ## install the tools that the tests need and that are missing
	@scripts/deps

REFERENCE := $(TARGET)/reference

docs: ## make the reference of the C header in HTML, in target/reference
	@scripts/deps doxygen doxygen
	@mkdir -p $(REFERENCE)
	NS_VERSION=$(VERSION) NS_OUT=$(REFERENCE) doxygen docs/Doxyfile
	@echo "see $(REFERENCE)/html/index.html"

# -- checks -----------------------------------------------------------------------------------

test: deps ## run all tests: Rust, C, valgrind, AddressSanitizer, examples, installing, bindings
	$(NEED_CARGO)
	$(call PROGRESS,test,1200) scripts/test

lint: deps ## check formatting, clippy, docs, header, symbols, strict C and C++, Markdown, rules
	$(NEED_CARGO)
	scripts/lint

# Both APIs, both modes, plain and TLS make eight runs of the same length. ONLY=blocking_tls, or
# another test of tests/oracle/mod.rs, makes the two runs of that test; GO_ON=1 goes on after a
# finding.
SECONDS ?= 40
SEED ?= 1
ONLY ?=
GO_ON ?=

oracle: ## run the test that knows only the rules of docs/BEHAVIOUR.md [SECONDS=40 in all] [SEED=1] [ONLY=…] [GO_ON=1]
	$(call PROGRESS,oracle-$(SECONDS),$(SECONDS)) $(MAKE) --no-print-directory run-oracle

run-oracle:
	@each=$$(( $(SECONDS) / $(if $(ONLY),2,8) )); \
	export NS_TEST_CHILD=1 NS_ORACLE_SECONDS=$$each NS_ORACLE_SEED=$(SEED) $(if $(GO_ON),NS_ORACLE_GO_ON=1); \
	$(CARGO) test --features capi --no-fail-fast --test oracle --test c_oracle -- \
		--test-threads=1 --nocapture $(addprefix oracle::,$(ONLY))

campaign-oracle: ## run the oracle for 20 minutes of each mode
	$(MAKE) oracle SECONDS=2400 SEED=$(SEED)

abi: ## fail where programs that were built with an earlier commit or tag would break [BASE=…]
	@scripts/deps abidiff abigail-tools
	scripts/abi $(or $(BASE),$(error make abi needs BASE=, a commit or a tag))

dist: ## make target/dist/netserver-VERSION.tar.xz: the committed source with all crates [SOURCE_DATE_EPOCH=…]
	scripts/dist

test-dist: ## make it in two folders, build the libraries of both, and compare; some minutes
	scripts/test-dist

# strace(1) makes the calls fail: see tests/faults/run.py, which also repeats single cases.
CASES ?= 3000

faults: deps build ## make each system call of the examples fail in turn, some 20 minutes; writes docs/RELIABILITY.md [CASES=3000] [SEED=1]
	$(call PROGRESS,faults-$(CASES),1200) $(PYTHON) tests/faults/run.py --cases $(CASES) --seed $(SEED) --write docs/RELIABILITY.md

# Namespaces and TUN devices need root. MIB is each way, over all connections of a run.
BAD_NETWORK_RELAY := $(TARGET)/tests-c/bad_network/relay
MIB ?= 256

$(BAD_NETWORK_RELAY): tests/bad_network/relay.c
	@mkdir -p $(@D)
	$(CC) -std=c11 $(STRICT) $(CFLAGS) -o $@ $<

bad-network: $(BAD_NETWORK_RELAY) $(TARGET)/examples-c/echo ## echo over a network that loses, duplicates, delays and reorders; writes docs/RELIABILITY.md [MIB=256] [SEED=1]
	@scripts/deps ip iproute2
	$(call PROGRESS,bad-network-$(MIB),300) $(PYTHON) tests/bad_network/run.py --mib $(MIB) --seed $(SEED) --write docs/RELIABILITY.md

# The library on a simulated kernel: docs/RELIABILITY.md. It makes its system calls through the C
# library's functions, which the program has in their place. What it takes from the C library itself
# is listed: a call that is not simulated must not be overlooked. SEED=N begins with that seed;
# without it each run has others. With TLS=1 all clients speak TLS, with TLS=0 none does.
SIM := $(TARGET)/simulated/program
SIM_SECONDS = $(if $(filter file,$(origin SECONDS)),60,$(SECONDS))
EPISODES ?=
TRACE ?=
SCRIPTS ?= 10000
TLS ?=

$(SIM): $(RUST_SOURCES) $(wildcard tests/sim/*.rs tests/data/simulated*.pem) tests/sim/passed-on.txt scripts/build-sim
	CARGO=$(CARGO) scripts/build-sim $(TARGET)/simulated

sim: $(SIM) ## run the library on a simulated kernel [SECONDS=60] [SEED=…] [TLS=1] [EPISODES=1] [TRACE=1] [GO_ON=1]
	$(call PROGRESS,sim-$(SIM_SECONDS),$(SIM_SECONDS)) env NS_SIM_SECONDS=$(SIM_SECONDS) \
	NS_SIM_SEED=$(if $(filter file,$(origin SEED)),$$(date +%s%N),$(SEED)) \
	$(if $(EPISODES),NS_SIM_EPISODES=$(EPISODES)) $(if $(TRACE),NS_SIM_TRACE=1) $(if $(GO_ON),NS_SIM_GO_ON=1) \
	$(if $(TLS),NS_SIM_TLS=$(TLS)) $(if $(WITHOUT),NS_SIM_WITHOUT='$(WITHOUT)') $(SIM)

sim-epoll: $(SIM) ## compare the simulated epoll(7) with this machine's kernel, some seconds [SCRIPTS=10000] [SEED=1]
	NS_SIM_EPOLL=$(SCRIPTS) NS_SIM_SEED=$(SEED) $(SIM)

sim-teeth: ## check that `make sim` finds each fault of tests/sim/planted; some minutes
	$(call PROGRESS,sim-teeth,300) env CARGO=$(CARGO) scripts/sim-teeth $(TARGET)/simulated

# The tests replay fuzz/corpus; see docs/RELIABILITY.md.
fuzz: ## run a target of fuzz/ with libFuzzer: service, proxy, outbuf, pem, session or calls [TARGET=…] [SECONDS=600]
	CARGO=$(CARGO) scripts/fuzz $(or $(FUZZED),$(error make fuzz needs TARGET=, a name in fuzz/targets)) $(if $(filter file,$(origin SECONDS)),600,$(SECONDS))

fuzz-minimise: ## make fuzz/corpus of what `make fuzz` has found [TARGET=…]
	CARGO=$(CARGO) scripts/fuzz minimise $(or $(FUZZED),$(error make fuzz-minimise needs TARGET=))

held: deps $(CAMPAIGN_SERVER) $(CAMPAIGN_CLIENTS) ## hold 19,000 connections, have 11 million come and go, echo 50 GiB; more than an hour [PARTS="hold-tls …"]
	$(call PROGRESS,held,4500) $(PYTHON) tests/campaigns/held.py 1000 $(PARTS)

# The models of tests/loom and tests/lobby: docs/RELIABILITY.md.
loom: ## run the models of what threads share in every order of their steps
	CARGO=$(CARGO) scripts/loom $(TARGET)/models

loom-teeth: ## check that `make loom` finds each planted fault; some minutes
	CARGO=$(CARGO) scripts/loom $(TARGET)/models --teeth

.PHONY: deb test-deb
deb: ## make Debian packages of the committed source, with Debian's own compiler; some minutes
	@scripts/deps mmdebstrap mmdebstrap
	scripts/deb

test-deb: ## make them, install, use, upgrade and remove them in a Debian of their own
	@scripts/deps mmdebstrap mmdebstrap
	scripts/deb
	scripts/test-deb

.PHONY: test-arm64 test-i386
test-arm64: ## build for arm64 in target/arm64, and run its C tests and hammer under qemu-user; some minutes
	$(call PROGRESS,test-arm64,900) scripts/test-cross arm64

test-i386: ## build for a machine of 32 bits in target/i386, and run its C tests and hammer; some minutes
	$(call PROGRESS,test-i386,400) scripts/test-cross i386

.PHONY: test-cargo-c
test-cargo-c: ## install by cargo-c into a folder, and use and check what is there; compiles cargo-c if it is missing
	$(call PROGRESS,test-cargo-c,300) scripts/test-cargo-c

test-package: ## make the crate as a registry gets it, and run the tests of its content
	scripts/test-package

test-bindings: deps build ## set up and check the bindings [LANGUAGES="cpp python …"]; scripts/test-bindings --quick is shorter
	scripts/test-bindings $(LANGUAGES)

cluster: ## build the example that runs as several processes; needs hiredis
	@scripts/deps /usr/include/hiredis/hiredis.h libhiredis-dev
	$(MAKE) $(TARGET)/examples-c/cluster/chat

test-cluster: deps cluster ## replace and kill processes of it behind HAProxy, restart its Redis; half a minute
	@scripts/deps haproxy haproxy redis-server redis-server
	$(PYTHON) tests/cluster/run.py

test-status-page: deps $(TARGET)/examples-c/status ## look at the page of the example status in a headless Chromium
	@scripts/deps chromedriver chromium-driver
	$(PYTHON) tests/status_page.py

memcheck: deps build c-tests ## run the C examples and C tests under valgrind
	$(PYTHON) tests/c/run.py --under valgrind
	$(PYTHON) tests/examples/run.py --under valgrind

# The hammer in Rust and through the C ABI, plain and TLS; the standard library is not instrumented.
hammer-asan: ## run the hammer with AddressSanitizer [SECONDS=40 of each of three programs] [SEED=1]
	RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address --cfg under_asan" CARGO_PROFILE_TEST_OPT_LEVEL=1 \
		NS_HAMMER_SECONDS=$(SECONDS) NS_HAMMER_SEED=$(SEED) \
		$(CARGO) test $(CARGO_OPTIONS) --test hammer --test c_hammer --test tls_hammer \
		--target $(HOST) --target-dir $(TARGET)/asan/rust

# The standard library is instrumented too. Without instructions of their own: the C of the
# cryptography, and the C library.
hammer-tsan: ## run the hammer with ThreadSanitizer [SECONDS=40 of each of three programs] [SEED=1]
	$(NEED_CARGO)
	$(call PROGRESS,hammer-tsan-$(SECONDS),600) env CARGO=$(CARGO) \
		NS_HAMMER_SECONDS=$(SECONDS) NS_HAMMER_SEED=$(SEED) scripts/hammer-tsan $(TARGET)/tsan

asan: asan-programs ## run the C examples and C tests with AddressSanitizer
	$(PYTHON) tests/c/run.py --under asan
	$(PYTHON) tests/examples/run.py --under asan
	$(PYTHON) tests/services/run.py --under asan
	$(PYTHON) tests/campaigns/killing.py 20 --under asan

audit: examples-rust ## run testssl.sh and sslyze against a TLS server and judge the findings; some minutes
	@scripts/deps testssl testssl.sh
	$(PYTHON) tests/tls/audit.py

# The virtual environment is for the library that draws the charts.
MATPLOTLIB := matplotlib==3.11.2
BENCH_VENV := $(TARGET)/bench-venv

$(BENCH_VENV)/ready:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/deps ensurepip python3-venv
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -q $(MATPLOTLIB)
	touch $@

# This build of the library makes its system calls through the C library, where a preloaded library
# counts them.
COUNTABLE := $(TARGET)/countable

$(COUNTABLE)/release/libnetserver.so: $(RUST_SOURCES)
	RUSTFLAGS='--cfg rustix_use_libc' $(MAKE) CARGO_TARGET_DIR=$(COUNTABLE) $@

bench-deps: build $(COUNTABLE)/release/libnetserver.so
	@scripts/deps unshare util-linux /usr/include/openssl/ssl.h libssl-dev \
		/usr/include/event2/event.h libevent-dev /usr/include/boost/asio.hpp libboost-dev \
		redis-server redis-server /usr/sbin/nginx nginx-light /usr/sbin/mosquitto mosquitto \
		/usr/include/microhttpd.h libmicrohttpd-dev

bench: bench-deps $(BENCH_VENV)/ready ## measure the library and its peers, some 10 minutes; writes docs/BENCHMARKS.md and its charts
	$(call PROGRESS,bench,600) $(BENCH_VENV)/bin/python benches/bench.py --write docs

bench-quick: bench-deps ## measure the main workloads beside few peers; only prints
	$(PYTHON) benches/bench.py --quick

bench-tls: bench-deps ## measure the workloads over TLS; only prints; fails where a goal is missed
	$(PYTHON) benches/bench.py --only TLS --strict

bench-bindings: build ## measure the bindings beside the usual servers of their languages; writes docs/BENCHMARKS-bindings.md
	@scripts/deps unshare util-linux /usr/include/openssl/ssl.h libssl-dev
	@for setup in bindings/*/setup; do "$$setup" || exit 1; done
	$(call PROGRESS,bench-bindings,600) $(PYTHON) benches/bindings.py --write docs

campaigns: $(CAMPAIGN_SERVER) $(TARGET)/examples-c/handover ## run the long load and fault campaigns, some minutes
	$(call PROGRESS,campaigns,600) $(MAKE) --no-print-directory $(CAMPAIGNS:%=campaign-%)

$(CAMPAIGNS:%=campaign-%): campaign-%: $(CAMPAIGN_SERVER) $(TARGET)/examples-c/handover
	$(PYTHON) tests/campaigns/$*.py

# -- install ----------------------------------------------------------------------------------

# The libraries that a static link needs besides the archive, as rustc reports them. The C compiler
# adds libc by itself, and the form of libgcc_s that fits (under -static there is no libgcc_s).
PRIVATE_LIBS = $(filter-out -lc -lgcc_s,$(shell cat $(NATIVE_LIBS)))
EMPTY :=
FILL_IN = sed -e 's|@VERSION@|$(VERSION)|g' -e 's|@MAJOR@|$(MAJOR)|g' \
	-e 's|@SONAME@|$(SONAME)|g' -e 's|@PREFIX@|$(PREFIX)|g' \
	-e 's|@LIBDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))|g' \
	-e 's|@INCLUDEDIR@|$(patsubst $(PREFIX)/%,$${prefix}/%,$(INCLUDEDIR))|g' \
	-e 's|@INCLUDEDIR_FROM_LIBDIR@|$(shell realpath -m --relative-to=$(LIBDIR) $(INCLUDEDIR))|g' \
	-e 's|@PRIVATE_LIBS@|$(PRIVATE_LIBS)|g' -e 's|@PRIVATE_LIBS_LIST@|$(subst $(EMPTY) $(EMPTY),;,$(strip $(PRIVATE_LIBS)))|g'

# Debuggers find the debug file by its name, which the library keeps, and know it by the build id.
INSTALLED := libnetserver.so.$(VERSION)
DEBUG_FILE := .debug/$(INSTALLED).debug

# The library comes by a rename: strip and objcopy write into a file that a program may have mapped
# otherwise. STRIP= leaves all debug information in it, for tools that make packages.
install: $(SO) $(ARCHIVE) $(NOTICES) ## install [PREFIX=/usr/local] [LIBDIR=…] [INCLUDEDIR=…] [MANDIR=…] [DOCDIR=…] [DESTDIR=] [STRIP=strip]
	$(INSTALL) -d $(addprefix $(DESTDIR),$(INCLUDEDIR) $(LIBDIR)/pkgconfig $(LIBDIR)/cmake/netserver $(MANDIR)/man3 $(DOCDIR))
	$(INSTALL) -m 644 $(HEADER) $(CXX_HEADER) $(DESTDIR)$(INCLUDEDIR)
	$(INSTALL) -m 755 $(SO) $(DESTDIR)$(LIBDIR)/$(INSTALLED).new
	$(INSTALL) -m 644 $(ARCHIVE) $(DESTDIR)$(LIBDIR)/libnetserver.a
ifneq ($(STRIP),)
	$(INSTALL) -d $(DESTDIR)$(LIBDIR)/.debug
	$(OBJCOPY) --only-keep-debug $(SO) $(DESTDIR)$(LIBDIR)/$(DEBUG_FILE)
	chmod 644 $(DESTDIR)$(LIBDIR)/$(DEBUG_FILE)
	$(STRIP) --strip-unneeded $(DESTDIR)$(LIBDIR)/$(INSTALLED).new
	cd $(DESTDIR)$(LIBDIR) && $(OBJCOPY) --remove-section=.gnu_debuglink --add-gnu-debuglink=$(DEBUG_FILE) $(INSTALLED).new
	$(STRIP) --strip-debug --enable-deterministic-archives $(DESTDIR)$(LIBDIR)/libnetserver.a
endif
	mv -f $(DESTDIR)$(LIBDIR)/$(INSTALLED).new $(DESTDIR)$(LIBDIR)/$(INSTALLED)
	ln -sf $(INSTALLED) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libnetserver.so
	$(FILL_IN) packaging/netserver.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/netserver.pc
	$(FILL_IN) packaging/netserver-config.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/netserver/netserver-config.cmake
	$(FILL_IN) packaging/netserver-config-version.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/netserver/netserver-config-version.cmake
	$(INSTALL) -m 644 packaging/netserver.3 $(DESTDIR)$(MANDIR)/man3
	$(INSTALL) -m 644 LICENSE-APACHE LICENSE-MIT $(NOTICES) $(DESTDIR)$(DOCDIR)

uninstall: ## remove the installed files
	rm -f $(addprefix $(DESTDIR)$(INCLUDEDIR)/,netserver.h netserver.hpp) $(DESTDIR)$(LIBDIR)/pkgconfig/netserver.pc
	rm -f $(addprefix $(DESTDIR)$(LIBDIR)/,$(INSTALLED) $(DEBUG_FILE) $(SONAME) libnetserver.so libnetserver.a)
	rm -f $(DESTDIR)$(MANDIR)/man3/netserver.3
	rm -rf $(DESTDIR)$(LIBDIR)/cmake/netserver $(DESTDIR)$(DOCDIR)
	rmdir $(DESTDIR)$(LIBDIR)/.debug 2>/dev/null || true

clean: ## remove everything that was built
	$(CARGO) clean
