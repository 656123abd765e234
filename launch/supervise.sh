# Sourced by torchrun.sh, mpirun.sh and srun.sh: what they do alike before, around and after the ranks.
#
# ENVIRONMENT: a file of exported settings, such as launch/environment/h100.sh. CHECK_NODES=1: every node is checked by
# `megaphi doctor --node` before the ranks start. MAX_RESTARTS: how often a job that crashed is started again, from its
# last checkpoint (default: never). A job that ended with 0 (done, or stopped by a signal and saved), 2 (bad input) or
# 130 (interrupted) is not.

# prepare WORDS...  reads the environment and the words of `megaphi train`; sets run_folder for the node check.
prepare() {
    # shellcheck disable=SC1090 (the user's choice)
    [ -z "${ENVIRONMENT:-}" ] || . "$ENVIRONMENT"
    run_folder=.
    for word in "$@"; do
        case "$word" in folder=*) run_folder=${word#folder=} ;; esac
    done
}

# make_secret  by it the ranks of a job know each other; one that is given stays.
make_secret() {
    export MEGAPHI_JOB_SECRET="${MEGAPHI_JOB_SECRET:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}"
}

# choose_port  a free port for a job of this machine alone, as two such jobs may run on it; one that is given stays.
choose_port() {
    free='from megaphi.parallel.launcher import free_port; print(free_port())'
    export MASTER_PORT="${MASTER_PORT:-$(python -c "$free" 2>/dev/null || echo 29500)}"
}

# check_nodes COMMAND...  checks the nodes on which COMMAND starts one process each, with CHECK_NODES=1.
check_nodes() {
    [ "${CHECK_NODES:-0}" = 1 ] || return 0
    "$@" python -m megaphi doctor --node --gpus "${GPUS:-0}" --folder "$run_folder" && return 0
    echo "$0: a node is not fit for the job (above): start it without that node, or with CHECK_NODES=0" >&2
    exit 1
}

# run_and_stop_softly STOP COMMAND...  runs COMMAND in a session of its own (a terminal's Ctrl-C reaches this shell
# only) and returns its exit code. SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 call STOP with the command's process
# number, once, and leave their name in `asked`; after the second the command itself gets SIGTERM.
run_and_stop_softly() {
    stop=$1
    shift
    if command -v setsid >/dev/null; then set -- setsid "$@"; fi
    "$@" &
    job=$!
    asked=
    for signal in TERM INT HUP USR1 USR2; do
        # shellcheck disable=SC2064 (the name is that of now)
        trap "if [ -z \"\$asked\" ]; then asked=$signal; \"\$stop\" \"\$job\"; else kill -TERM \"\$job\"; fi" "$signal"
    done
    while true; do
        # A wait that a signal interrupts says nothing of the job, which is then still there.
        code=0
        wait "$job" || code=$?
        kill -0 "$job" 2>/dev/null || return "$code"
    done
}

# may_restart CODE RESTARTS  true for a crash that nobody asked for, until MAX_RESTARTS.
may_restart() {
    case "$1" in 0 | 2 | 130) return 1 ;; esac
    [ -z "$asked" ] && [ "$2" -lt "${MAX_RESTARTS:-0}" ]
}

# refused_input  true if the ranks ended with 2 and their launcher does not say so (torchrun.sh).
refused_input() { false; }

# run_until_done STOP COMMAND...  as run_and_stop_softly, and again after a crash.
run_until_done() {
    restarts=0
    while true; do
        code=0
        run_and_stop_softly "$@" || code=$?
        ! refused_input || code=2
        may_restart "$code" "$restarts" || return "$code"
        restarts=$((restarts + 1))
        export MEGAPHI_RESTART="$restarts" # for the run's events.jsonl
        echo "$0: ended with code $code: restart $restarts of $MAX_RESTARTS, from the last checkpoint" >&2
    done
}
