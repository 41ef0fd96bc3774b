"""What a user types wrongly: exit code 2, one line or two that name the key, no traceback and no silent start."""

import pytest

from tests.helpers.commands import ended

LONG = "x" * 5000
OF_A_REVERSAL = ("scale_1=1/10", "mu=1", "grid_bits=12", "chunks=2", "strict=true", "offload=true", "stored_layers=2",
                 "budget=8GiB")  # fmt: skip
MISTAKES = [
    # names
    ("backbone=robrta", "backbone=robrta: there is no such backbone, did you mean 'roberta'?"),
    ("task=rt", "task=rt: there is no such task, did you mean 'rte'?"),
    ("method=meft4", "method=meft4: there is no such method, did you mean 'meft"),
    (
        "experiment=glue_bert_bas",
        "experiment=glue_bert_bas: there is no such experiment, did you mean 'glue_bert_base'?",
    ),
    ("experiment=init_lora scale=smok", "scale=smok: there is no such scale, did you mean 'smoke'?"),
    ("-m launcher=slrum", "launcher=slrum: there is no such launcher, did you mean 'slurm'?"),
    ("method=null", "method=null: there is no such method"),
    ("task=null", "task=null: there is no such task"),
    ("backbone=", "backbone=: has no value"),
    ("task=[rte]", "task=[rte]: there is no such task, did you mean 'rte'?"),
    ("task=../../rte", "task=../../rte: there is no such task"),
    ("method={name:lora}", "method={name:lora}: there is no such method"),
    ("method=_meft1_r64", "method=_meft1_r64: there is no such method"),
    ("task=_glue", "task=_glue: there is no such task"),
    ("experiment=_qa", "experiment=_qa: there is no such experiment"),
    ("-m method=full,meft7", "method=meft7: there is no such method"),
    ("-m method=glob(*)", "method=glob(*): expected names, as in method=A,B"),
    ("-m experiment=init_lora,init_ia3", "expected one experiment at a time"),
    *(
        (f"method={name}", f"method={name}: adds tokens to a row, and a layer must return as many as it gets")
        for name in (
            "prompt_tuning",
            "prefix_tuning",
            "p_tuning",
            "prompt-tuning",
            "prefix",
            "P_TUNING",
            "PTuning",
            "multitask_prompt_tuning",
            "adaption_prompt",
            "cpt",
        )
    ),
    ("-m method=lora,prompt_tuning", "Expected one that trains inside layers, of dora, full, ia3, lora"),
    ("method=adalora", "method=adalora: there is no such method, did you mean 'lora'?"),
    ("method=boft", "method=boft: there is no such method, expected dora, "),
    ("method=p", "method=p: there is no such method"),
    ("task.name=../../x", "task.name=../../x: comes from the file of conf/task/"),
    ("-m task.name=x,y", "task.name=x,y: comes from the file of conf/task/"),
    ("method.variant=meft3", "method.variant=meft3: comes from the file of conf/method/"),
    ("method=meft1_start method.variant=meft3", "Choose one with method=NAME."),
    ("method=lora method.decomposed=true", "Choose method=lora or method=dora."),
    ("method=lora method.name=meft1", "method.name=meft1: comes from the file of conf/method/"),
    ("backbone.name=x", "backbone.name=x: comes from the file of conf/backbone/"),
    ("backbone.package=os", "backbone.package=os: comes from"),
    ("backbone.sha256=0", "backbone.sha256=0: comes from"),
    ("backbone.hub=x", "backbone.hub=x: comes from"),
    ("backbone.config={a:1}", "backbone.config={a:1}: comes from"),
    ("backbone.config.hidden_size=3", "backbone.config.hidden_size=3: comes from"),
    ("method.learning_rate=1", "Set training.learning_rate."),
    ("task=rte task.hub=x", "task.data_dir=DIR reads other rows"),
    ("task=rte task.text_columns=[a]", "task.text_columns: comes from conf/task/rte.yaml alone"),
    ("task=squad task.unanswerable=true", "Choose task=squad or task=squad_v2."),
    # keys
    ("method.adpater_dim=4", "method.adpater_dim: no such setting, did you mean 'adapter_dim'?"),
    ("training.bach_size=4", "training.bach_size: no such setting, did you mean 'batch_size'?"),
    ("trainig.epochs=4", "trainig: no such setting, did you mean 'training'?"),
    (
        "method.checkpointing=true",
        "method.checkpointing: method=meft1 has no such setting (full, dora, lora, ia3, vera have)",
    ),
    *(
        (
            f"method=lora method.checkpointing={value}",
            f"method.checkpointing={shown}: expected false, true, offload or every_4.",
        )
        for value, shown in {
            "maybe": "maybe",
            "yes": "yes",
            "1": "1",
            "0": "0",
            "null": "null",
            "every_2": "every_2",
            "[true,offload]": "[True, 'offload']",
        }.items()
    ),
    (
        "method=full method.reversal=exact",
        "method.reversal: method=full has no such setting (dora, lora, ia3, vera, meft1, meft1_start, meft2,",
    ),
    ("task/rte=x", "task/rte: no such setting"),
    ("task@x=rte", "task@x=rte: expected key=value"),
    ("=1", "=1: expected key=value"),
    ("a b", "cannot be read as key=value"),
    ("a=b=c", "Quote a value with special characters: 'a=\"b=c\"'"),
    ("training=null", "training=null: expected key=value"),
    ("training={epochs:3}", "training={epochs:3}: expected key=value"),
    ("+x=1", "+x=1: settings cannot be added"),
    ("+training.epoch=1", "did you mean 'training.epochs'?"),
    ("++training.epochs=1", "++training.epochs=1: settings cannot be added. Write training.epochs=VALUE."),
    ("+method.foo=1", "+method.foo=1: settings cannot be added"),
    ("+hydra.foo=1", "+hydra.foo=1: settings cannot be added"),
    ("+experiment=init_lora", "Write experiment=VALUE."),
    ("~method", "~method: settings cannot be taken away"),
    ("~training.epochs", "~training.epochs: settings cannot be taken away"),
    ("seed=1 seed=2", "seed: given 2 times"),
    ("task=rte task=mrpc", "task: given 2 times"),
    # values
    ("backbone.weights=int4", "backbone.weights: Invalid value 'int4', expected one of [fp32, bf16, fp16, nf4, int8]"),
    ("backbone.weights=4", "backbone.weights=4: expected a name, not a number"),
    (
        "backbone.weights=nf4 method=full",
        "backbone.weights=nf4: method=full trains the weights themselves, as fp32. Leave it out, or take a method that",
    ),
    ("backbone.weights=bf16 method=full training.precision=bf16", "backbone.weights=bf16: method=full trains the"),
    (
        "backbone.weights=bf16",
        "backbone.weights=bf16: with training.precision=fp32 weights of another precision would have to be converted. "
        "Set training.precision=bf16.",
    ),
    ("backbone.weights=fp16 training.precision=bf16", "Set training.precision=fp16."),
    ("backbone.weights=int8 method=dora", "which peft cannot do in int8. Take backbone.weights=nf4, or method=lora."),
    ("method.adapter_dim=abc", "method.adapter_dim: Value 'abc' of type 'str' could not be converted to Integer"),
    ("training.precision=fp17", "training.precision: Invalid value 'fp17', expected one of [fp32, bf16, fp16]"),
    ("method.reversal=exactly", "method.reversal: Invalid value 'exactly', expected one of [exact, float, stored]"),
    ("method.reversal=off", "method.reversal: Invalid value 'off', expected one of [exact, float, stored]"),
    *(
        (f"method=lora method.reversal={value}", "expected one of [off, exact, float, stored]")
        for value in ("on", "true", "none", "xyz", "OFF")
    ),
    ("method=lora method.reversal=1", "method.reversal=1: expected a name, not a number"),
    ("study=2", "study=2: expected a name, not a number"),
    ("method=lora method.reversal=[off,exact]", "method.reversal=[off,exact]: expected a name, not a list"),
    ("-m training.precision=fp32,2", "training.precision=fp32,2: expected a name, not a number"),
    ("method=lora method.reversal=null", "method.reversal: expected a value, not null"),
    *(
        (f"method=lora method.reversal=exact method.scale_1={value}", f"method.scale_1={value}: {message}")
        for value, message in {
            "0.3": "reversal=exact divides integers: expected 1/n, n up to 256. Take for instance 1/3,",
            "0.9": "reversal=exact divides integers: expected 1/n, n up to 256. Take for instance 1/2,",
            "1/300": "reversal=exact divides integers",
            "1": "expected a number below 1",
            "2": "expected a number below 1",
            "0": "expected a number above 0",
            "-1/10": "expected a number above 0",
            "abc": "expected a number above 0",
        }.items()
    ),
    ("method=ia3 method.reversal=float method.scale_1=1.5", "method.scale_1=1.5: expected a number below 1"),
    ("method=lora method.reversal=exact method.mu=0", "method.mu=0: expected a number above 0, at most 100"),
    ("method=lora method.reversal=exact method.mu=1-lambda", "method.mu=1-lambda: expected a number above 0"),
    ("method=lora method.reversal=exact method.mu=null", "method.mu: expected a value, not null"),
    ("method.mu=2e9", "method.mu=2000000000.0: expected a number above 0, at most 100"),
    ("method.reversal=float method.scale_1=2 method.mu=1-scale", "method.mu=1-scale with method.scale_1=2: expected"),
    ("method.stored_layers=-1", "method.stored_layers=-1: expected 0 to 1000000."),
    ("method.budget=8", "method.budget=8: expected a number with a unit, as in 24GiB or 512MiB"),
    ("method=lora method.reversal=exact method.budget=8gib", "method.budget=8gib: expected a number with a unit"),
    ("method=full method.budget=8GiB", "method.budget: "),
    ("method.merge=[0,0]", "method.merge=[0, 0]: expected two weights, not both 0, for instance [0.5,0.5], or learned"),
    ("method.merge={a:1}", "method.merge={'a': 1}: expected two weights"),
    ("method.merge=[1e400,1]", "method.merge=[inf, 1]: expected two weights"),
    ("method.merge=null", "expected two weights"),
    ("method.merge.a=1", "method.merge.a=1: method.merge has no parts. Write method.merge=VALUE."),
    ("seeds.a=1", "seeds.a=1: seeds has no parts"),
    ("method.adapter_factor=0", "method.adapter_factor=0.0: expected 0.001 to"),
    ("method.zero_start=3", "method.zero_start=3: expected true or false"),
    ("-m method.zero_start=true,2", "method.zero_start=true,2: expected true or false"),
    ("method.scale_1=0.3", "method.scale_1=0.3: reversal=exact"),
    ("method.scale_1=null", "method.scale_1: expected a value, not null"),
    ("training.epochs=1e400", "training.epochs: Value 'inf'"),
    ("seed=99999999999999999999", "seed=99999999999999999999: expected 0 to"),
    ("task.max_length=9999999999999999999", "task.max_length=9999999999999999999: expected 4 to"),
    ("seed=[1,2]", "seed: Value '[1, 2]' of type 'list'"),
    ("output_dir=[a]", "output_dir: Cannot convert 'list' to string"),
    ("output_dir=", "output_dir=: has no value"),
    ("output_dir=' '", "has no value"),
    ("task=rte task.data_dir=''", "has no value"),
    ("seed=${nothing}", "seed: Interpolation key 'nothing' not found"),
    ("seed=${seed}", "seed: Recursive interpolation"),
    ("seed=${nothing:1}", "seed: Unsupported interpolation type nothing"),
    ("training.learning_rate=${times:a,2}", "training.learning_rate: ValueError raised while resolving interpolation"),
    (
        "method.scale_1=${variant:meft9,scale_1}",
        "method.scale_1: KeyError raised while resolving interpolation: 'meft9'",
    ),
    ("output_dir=${backbone}", "output_dir: While dereferencing interpolation '${backbone}'"),
    ("task=rte task.data_dir=${oc.env:TOKEN}", "task.data_dir=${oc.env:TOKEN}: nothing is read from the environment"),
    (f"task=rte task.max_length={LONG}", "task.max_length: Value 'xxx"),
    (f"task={LONG}", "xxx"),
    (f"{LONG}=1", "xxx"),
    ("seed=" + "{a:" * 400 + "1" + "}" * 400, "has more brackets than any setting needs"),
    ("task=text\x1b[31m", "\\x1b[31m"),
    (
        "output_dir=runs\udcff",
        "'output_dir=runs\\udcff': has a control character in it, or bytes that are no UTF-8. Leave",
    ),
    ("seeds=1 -m", "seeds: Invalid value"),
    ("-m seeds=[]", "seeds=[]: expected one or more seeds"),
    ("-m task=rte,mrpc,'rte'", "task=rte,mrpc,'rte': rte is given 2 times. Give each value once."),
    ("-m training.learning_rate=1e-3,0.001", "0.001 is given 2 times"),
    ("-m seeds=[1,1]", "seeds=[1,1]: expected one or more seeds, each once"),
    ("-m seed=interval(1,3)", "seed=interval(1,3): expected values, as in seed=A,B"),
    # what has no effect
    ("seed=1,2", "seed=1,2: several values make a sweep. Start it with -m"),
    ("seeds=[1,2]", "seeds=[1,2]: has an effect on a sweep alone"),
    ("retry_failed=true", "retry_failed=true: has an effect on a sweep alone"),
    ("launcher=joblib", "launcher=joblib: has an effect on a sweep alone"),
    ("scale=smoke", "scale: has an effect on experiments alone"),
    ("experiment=null", "experiment=null: there is no such experiment"),
    ("level=1", "level: has an effect on experiments alone"),
    ("experiment=init_lora level=1", "level=1: the experiment has no levels"),
    ("-m hydra.launcher.n_jobs=2", "hydra.launcher.n_jobs: needs launcher="),
    *(
        (
            f"method=lora method.{typed}",
            f"method.{typed}: has no effect with method.reversal=off. Add method.reversal=exact, or leave it out.",
        )
        for typed in OF_A_REVERSAL
    ),
    (
        "method=lora method.reversal=exact method.checkpointing=true",
        "method.checkpointing=true: has no effect with method.reversal=exact",
    ),
    (
        "method=vera method.reversal=float method.checkpointing=every_4",
        "method.checkpointing=every_4: has no effect with method.reversal=float",
    ),
    ("method=ia3 method.reversal=stored method.strict=true", "method.strict=true: has no effect with"),
    ("method.reversal=float method.grid_bits=12", "method.grid_bits=12: has no effect with method.reversal=float"),
    ("method.reversal=stored method.strict=true", "method.strict=true: has no effect with method.reversal=stored"),
    ("method.reversal=float method.offload=true", "method.offload=true: has no effect with method.reversal=float"),
    ("method=vera method.reversal=stored method.offload=true", "method.offload=true: has no effect with"),
    ("method.scale_1=1 method.offload=true", "method.offload=true: a half with a scale of 1 keeps nothing"),
    ("method.reversal=stored method.budget=8GiB", "method.budget=8GiB: has no effect with method.reversal=stored"),
    ("method.reversal=stored method.stored_layers=2", "method.stored_layers=2: has no effect with"),
    (
        "method.stored_layers=2 method.budget=8GiB",
        "method.stored_layers=2: has no effect with method.budget=8GiB. Leave out one of them.",
    ),
    ("training.max_steps=3 training.epochs=3", "training.epochs=3: has no effect with training.max_steps=3"),
    ("task=squad task.null_threshold=1", "task.null_threshold=1.0: has no effect with task.unanswerable=false"),
    ("task=rte task.data_dir=x task.revision=y", "task.revision=y: has no effect with task.data_dir=x"),
    ("backbone.path=x backbone.revision=y", "backbone.revision=y: has no effect with backbone.path=x"),
    ("backbone=vit task=images task.data_dir=x task.label_column=y", "task.label_column=y: has no effect with"),
    (
        "backbone=vit task=svhn training.group_by_length=true",
        "training.group_by_length=true: has no effect with task=svhn",
    ),
    ("study=gradients training.patience=3", "training.patience=3: has no effect with study=gradients"),
    ("study=gradients method=lora", "study=gradients: looks at a reversal, method=lora has none. Add method.reversal="),
    ("study=gradients method=full", "study=gradients: looks at a reversal, method=full has none. Take method=meft1."),
    ("study=start training.epochs=3", "training.epochs=3: has no effect with study=start"),
    # Hydra's own
    ("hydra.sweep.dir=o -m", "hydra.sweep.dir=o: is the program's own"),
    ("hydra.run.dir=o", "hydra.run.dir=o: is the program's own"),
    ("hydra.job.chdir=true", "hydra.job.chdir=true: is the program's own"),
    ("hydra.output_subdir=x", "hydra.output_subdir=x: is the program's own"),
    ("hydra.mode=MULTIRUN", "hydra.mode=MULTIRUN: write -m for a sweep"),
    ("hydra/launcher=joblib", "hydra/launcher=joblib: is the program's own"),
    ("hydra.callbacks.x._target_=os.system", "What is imported and called is conf/'s own affair"),
    ("-m launcher=joblib hydra.launcher._target_=os.system", "What is imported and called is conf/'s own affair"),
    ("-m launcher=joblib hydra.launcher.foo=2", "hydra.launcher.foo: no such setting"),
    ("-m launcher=joblib hydra.launcher.n_jobs=many", "hydra.launcher.n_jobs: Value 'many'"),
    ("method._target_=os.system", "method._target_=os.system: no such setting"),
    ("--config-dir=/tmp", "--config-dir: settings come from the program's own conf/"),
    ("--config-name=x", "--config-name: settings come from"),
    ("--config-path /tmp", "--config-path: settings come from"),
    ("--config-p /tmp", "--config-p: no such option"),
    ("--experimental-rerun x", "--experimental-rerun: settings come from"),
    ("--resolve", "--resolve and --package change what --cfg shows"),
    ("--package x", "--resolve and --package change what --cfg shows"),
    ("--shell-completion", "--shell-completion: expected install=SHELL"),
    ("--info x", "--info/-i: invalid choice"),
    ("--cfg x", "--cfg/-c: invalid choice"),
    ("--foo", "--foo: no such option"),
    ("-m seed=range(1,1000000000)", "seed=range(1,1000000000): makes a sweep of 999,999,999 runs, expected at most"),
    ("-m seed=sort(range(1,1000)) method.chunks=range(1,1e300)", "method.chunks=range(1,1e300): makes a sweep of"),
    ("-m seed=range(1,10,0)", "seed=range(1,10,0): a step of 0 comes to no end"),
    ("-m output_dir='~nosuch/x'", "output_dir=~nosuch/x: the system knows no such home folder"),
    ("output_dir='~nosuch/x'", "output_dir=~nosuch/x: the system knows no such home folder"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES, ids=[typed[:60] for typed, _ in MISTAKES])
@pytest.mark.thin(6)
def test_a_mistake_is_a_line(typed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", "a secret")
    words = [typed] if typed == "a b" or "' '" in typed else typed.split(" ")
    code, error = ended(words)
    assert (code, error.count("error: ")) == (2, 1)
    assert message in error
    assert len(error) <= 420
    assert len(error.splitlines()) <= 2
    assert "a secret" not in error
    assert not list(tmp_path.iterdir())  # nothing was left


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc: expected a number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=: expected a number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2: RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
        ({"RANK": "1"}, "RANK=1: expected 0 to 0 with WORLD_SIZE=1"),
        ({"LOCAL_RANK": "0"}, "WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT not set"),
        ({"HF_HUB_DOWNLOAD_TIMEOUT": "60s"}, "HF_HUB_DOWNLOAD_TIMEOUT=60s: expected whole seconds"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x: expected a number"),
    ],
)
def test_an_environment_that_no_launcher_makes(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, error = ended(["seed=1"])
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "typed",
    [
        "method=dora method.reversal=exact method.mu=1", "study=gradients method=vera method.reversal=exact",
        "study=start method=full", "-m method=meft1,meft1_start,meft3_start", "method.zero_start=yes",
        "-m method=lora method.reversal=off,exact,float,stored", "-m method=lora,meft1 method.reversal=exact",
        "-m method=ia3 method.reversal=exact method.scale_1=1/10,1/256 method.mu=1,1-scale",
        "seed=1", "output_dir=runs/${task.name}", "backbone.path=null", "-m method=lora,full",
        "seed=1 -m method=lora method.checkpointing=true,false,offload,every_4", "--multirun seed=range(1,3)", "--",
        "task=rte task.data_dir='data/été (1)'", "task=rte task.data_dir=/x/my_target_dir",
        "task=rte task.data_dir=doc.env",
        "experiment=scores level=1 method=lora", "-m seeds=null seed=1",
    ],
)  # fmt: skip
@pytest.mark.thin(7)
def test_what_can_be_meant_starts(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = []
    words = [typed] if typed == "--" else [word.strip() for word in typed.replace(" (", "\0(").split(" ")]
    code, error = ended([word.replace("\0", " ") for word in words], started)
    assert (code, error) == (0, "")
    assert started
