"""Programs in small for the tests of `surefoot run`: how they start, end and misbehave."""

from __future__ import annotations

SCRIPTS: dict[str, str] = {
    # how the program finds itself
    "namespace": """
        import sys
        print(sorted((k, type(v).__name__) for k, v in globals().items()))
        print(__name__, __file__, __package__, __spec__, __cached__, __annotations__, __doc__)
        print(sys.modules["__main__"].__dict__ is globals(), __loader__.name, __loader__.path)
    """,
    "paths": """
        import os, sys
        print(sys.argv, sys.path, os.getcwd(), __file__)
    """,
    "beside": """
        import helper
        print(helper.VALUE, helper.__file__)
    """,
    "nothing_preloaded": """
        import sys
        print([m for m in ("torch", "numpy", "rich", "plotly", "sqlite3") if m in sys.modules])
    """,
    "no_click_around": """
        import click
        print(click.get_current_context(silent=True))
        @click.command()
        @click.option("--epochs", type=int)
        def main(epochs):
            print(epochs)
            click.get_current_context().exit(4)
        main(["--epochs", "3"])
    """,
    "annotations_evaluated": """
        def f(x: print("evaluated")): ...
        print(f.__annotations__)
    """,
    "dataclass_and_pickle": """
        from __future__ import annotations
        import dataclasses, pickle, typing
        @dataclasses.dataclass
        class Point:
            x: int
            y: typing.ClassVar[int] = 3
            other: Point | None = None
        print(typing.get_type_hints(Point), pickle.loads(pickle.dumps(Point(1, Point(2)))))
        print(dataclasses.fields(Point)[1].name, Point.__module__)
    """,
    "own_source": """
        import inspect, linecache
        def f(): return 1
        print(inspect.getsource(f), linecache.getline(__file__, 2))
    """,
    "bytes_out": """
        import sys
        sys.stdout.buffer.write(b"\\xff\\x00\\r\\n")
        print("no newline at the end", end="")
    """,
    "reads_stdin": """
        import sys
        print(input("name? "), sys.stdin.read())
    """,
    # how it ends
    "exit_none": "import sys; sys.exit()",
    "exit_three": "import sys; sys.exit(3)",
    "exit_negative": "import sys; sys.exit(-1)",
    "exit_256": "import sys; sys.exit(256)",
    "exit_true": "raise SystemExit(True)",
    "exit_words": "import sys; print('out'); sys.exit('no data: \\u00e9')",
    "exit_list": "import sys; sys.exit([1, 2])",
    "exit_in_finally": """
        import sys
        try: 1 / 0
        finally: sys.exit(6)
    """,
    "exit_from_class": """
        class Stop(SystemExit): code = 7
        raise Stop("x")
    """,
    "os_exit": "import os; print('lost'); os._exit(7)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "own_sigterm": """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        os.kill(os.getpid(), signal.SIGTERM)
    """,
    "interrupt": "raise KeyboardInterrupt",
    "interrupt_signal": """
        import atexit, os, signal
        atexit.register(print, "atexit", flush=True)
        def train():
            os.kill(os.getpid(), signal.SIGINT)
        train()
    """,
    "interrupt_ignored": """
        import os, signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGINT)
        print("on")
    """,
    "interrupt_caught": """
        import os, signal, sys
        try: os.kill(os.getpid(), signal.SIGINT); input()
        except KeyboardInterrupt: sys.exit("saved")
    """,
    "interrupt_subclass": """
        class Mine(KeyboardInterrupt): pass
        raise Mine("x")
    """,
    # tracebacks
    "uncaught": """
        def inner(): raise ValueError("bad value")
        def outer():
            inner()
        outer()
    """,
    "chained": """
        try:
            try: 1 / 0
            except ZeroDivisionError as e: raise KeyError("k") from e
        except KeyError:
            raise RuntimeError("while handling")
    """,
    "group": """
        def one(): raise ValueError(1)
        try: one()
        except ValueError as e: raise ExceptionGroup("several", [e, TypeError("x")])
    """,
    "from_none_with_note": """
        e = ValueError("x"); e.add_note("look here")
        raise e from None
    """,
    "bad_str": """
        class Odd(Exception):
            def __str__(self): raise RuntimeError
        raise Odd
    """,
    "in_a_library": "import json; json.loads('{')",
    "syntax_error": "x = (1,\nprint('a'\n",
    "indentation_error": "if True:\n  x = 1\n   y = 2\n",
    "unfinished_string": "x = 'abc\n",
    "syntax_error_in_import": "import broken",
    "import_error": "import there_is_no_such_module",
    "from_import_error": "from json import nothing_like_it",
    "excepthook": """
        import sys
        def hook(kind, error, traceback):
            print("hooked", kind, error, traceback.tb_lineno, sys.exc_info(), file=sys.stderr)
            print(traceback.tb_frame.f_code.co_filename, sys.last_value, file=sys.stderr)
        sys.excepthook = hook
        1 / 0
    """,
    "excepthook_exits": """
        import sys
        sys.excepthook = lambda *_: sys.exit(8)
        1 / 0
    """,
    "excepthook_fails": """
        import sys
        def hook(*_): raise RuntimeError("hook")
        sys.excepthook = hook
        1 / 0
    """,
    "excepthook_missing": "import sys; del sys.excepthook; 1 / 0",
    "warns": "import warnings; warnings.warn('careful')",
    # what happens after the last line
    "atexit": """
        import atexit
        atexit.register(print, "first registered")
        atexit.register(print, "last registered")
        print("end")
    """,
    "atexit_fails": """
        import atexit
        def fail(): raise ValueError("in atexit")
        atexit.register(fail)
    """,
    "thread_outlives": """
        import threading, time
        def work():
            time.sleep(0.2)
            import __main__
            print("thread", __main__.word)
        word = "still there"
        threading.Thread(target=work).start()
        print("main ends")
    """,
    "thread_fails": """
        import threading
        def work(): raise ValueError("in a thread")
        t = threading.Thread(target=work, name="w"); t.start(); t.join()
    """,
    "idle_pool": """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        print(pool.submit(lambda: 5).result())
    """,
    "destructor_of_a_global": """
        class Last:
            def __del__(self): print("gone")
        last = Last()
    """,
    # what a program may do to its process
    "replaces_streams": """
        import io, sys
        sys.stdout = io.StringIO(); sys.stderr = io.StringIO()
        print("swallowed"); sys.exit("swallowed too")
    """,
    "wraps_stdout": """
        import io, sys
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-16", newline="")
        print("wrapped")
    """,
    "closes_stderr": "import sys; sys.stderr.close(); 1 / 0",
    "no_stderr": "import sys; sys.stderr = None; sys.exit('to nobody')",
    "closes_descriptors": "import os; os.closerange(2, 64); print('still here')",
    "closes_stdout": "import sys; sys.stdout.close()",
    "changes_argv_and_path": "import sys; sys.argv[:] = []; sys.path.clear(); print('ok')",
    "changes_folder": """
        import os
        os.makedirs("gone"); os.chdir("gone"); os.rmdir("../gone"); print("ok")
    """,
    "forks": """
        import os, sys
        print("before", flush=True)
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            print("child"); sys.exit(5)
    """,
    "fork_fails": """
        import os
        child = os.fork()
        if not child: raise ValueError("in the child")
        os.waitpid(child, 0)
    """,
    "runs_another": """
        import runpy
        out = runpy.run_path("helper.py", run_name="__main__")
        print(out["VALUE"], __name__, __import__("sys").modules["__main__"].__dict__ is globals())
        exec(open("helper.py").read())
    """,
    "spawn": """
        import multiprocessing as mp
        class Work:
            def __call__(self, x): return x * x, __name__
        if __name__ == "__main__":
            with mp.get_context("spawn").Pool(2) as pool: print(pool.map(Work(), [1, 2, 3]))
    """,
    "fork_pool": """
        import multiprocessing as mp
        def work(x): return x + 1, __name__
        if __name__ == "__main__":
            with mp.get_context("fork").Pool(2) as pool: print(pool.map(work, [1, 2, 3]))
    """,
    "asyncio": """
        import asyncio
        async def main():
            await asyncio.sleep(0)
            raise ValueError("in a task")
        asyncio.run(main())
    """,
    "everything_is_an_error": "import warnings; warnings.simplefilter('error'); import wave",
    "tracing_left_on": """
        import sys
        sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None)
    """,
}
