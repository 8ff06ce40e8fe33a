use super::{BUILT_IN, Catalog, Config, DatabaseSettings, Language, Policy};

fn refusal(text: &str) -> String {
    Catalog::parse(text, "models.toml").unwrap_err().to_string()
}

/// A server that is said to run all-MiniLM-L6-v2.
const SERVER: &str = r#"
[[embedder]]
name = "server"
kind = "remote"
dimension = 384
max_tokens = 256
min_similarity = 0.3
answer_cut = 0.6
[embedder.remote]
api = "tei"
base_url = "http://embed.example:8080"
same_space_as = "all-MiniLM-L6-v2"
"#;

fn with_server() -> String {
    format!("{BUILT_IN}{SERVER}")
}

#[test]
fn an_unknown_key_names_its_line() {
    for (table, wrong) in [
        ("kind = \"bert\"", "poolling = \"mean\"\nkind = \"bert\""),
        ("api = \"tei\"", "api = \"tei\"\ntimeout = 5"),
        ("candidates = [\"all-MiniLM-L6-v2\"]", "candidates = [\"all-MiniLM-L6-v2\"]\nreplica = []"),
    ] {
        let text = with_server().replacen(table, wrong, 1);
        let line =
            text.lines().position(|line| wrong.lines().any(|added| added == line && !table.contains(line)));
        let error = refusal(&text);
        assert!(error.contains("unknown field"), "{error}");
        assert!(error.contains(&format!("line {}", line.unwrap() + 1)), "{line:?}: {error}");
    }
}

#[test]
fn a_server_of_the_same_weights_shares_their_space_and_may_be_a_replica() {
    let text = with_server().replacen(
        "candidates = [\"all-MiniLM-L6-v2\"]",
        "candidates = [\"all-MiniLM-L6-v2\"]\nreplicas = [\"server\"]",
        1,
    );
    let catalog = Catalog::parse(&text, "models.toml").unwrap();
    let space = |name| catalog.space_of(catalog.embedder(name).unwrap()).id;
    assert_eq!(space("server"), space("all-MiniLM-L6-v2"));

    let alone = with_server().replace("same_space_as = \"all-MiniLM-L6-v2\"\n", "");
    let catalog = Catalog::parse(&alone, "models.toml").unwrap();
    let space = catalog.space_of(catalog.embedder("server").unwrap()).id;
    assert!(space.starts_with("server@") && space.contains(":remote:"), "{space}");
}

#[test]
fn each_precision_is_a_space_of_its_own() {
    let space = |precision: &str| {
        let text = BUILT_IN.replacen("kind = \"bert\"", &format!("kind = \"bert\"{precision}"), 1);
        let catalog = Catalog::parse(&text, "models.toml").unwrap();
        catalog.space_of(catalog.embedder("all-MiniLM-L6-v2").unwrap()).id
    };
    let f32 = space("");
    assert!(f32.ends_with(":l2:fp32"), "a space that is stored must keep its name: {f32}");
    assert_eq!(space("\nprecision = \"f32\""), f32);
    assert_eq!(space("\nprecision = \"bf16\""), f32.replace(":fp32", ":bf16"));
    assert_eq!(space("\nprecision = \"int8\""), f32.replace(":fp32", ":int8"));
}

#[test]
fn replicas_of_another_space_are_refused() {
    let text = with_server().replace("same_space_as = \"all-MiniLM-L6-v2\"\n", "").replacen(
        "candidates = [\"all-MiniLM-L6-v2\"]",
        "candidates = [\"all-MiniLM-L6-v2\"]\nreplicas = [\"server\"]",
        1,
    );
    let error = refusal(&text);
    assert!(error.contains("routes.embed.text-embedding") && error.contains("same_space_as"), "{error}");
}

#[test]
fn entries_that_contradict_themselves_are_refused() {
    for (from, to, told) in [
        ("same_space_as = \"all-MiniLM-L6-v2\"", "same_space_as = \"nothing\"", "unknown model `nothing`"),
        (
            "dimension = 384\nmax_tokens = 256\nmin_similarity = 0.3\nanswer_cut = 0.6\n[embedder.remote]",
            "dimension = 8\nmax_tokens = 256\nmin_similarity = 0.3\nanswer_cut = 0.6\n[embedder.remote]",
            "384 dimensions",
        ),
        ("base_url = \"http://embed", "base_url = \"ftp://embed", "http:// or https://"),
        ("kind = \"remote\"", "kind = \"bert\"", "belongs to kind `remote`"),
        (
            "[embedder.remote]\napi = \"tei\"\nbase_url = \"http://embed.example:8080\"\nsame_space_as = \"all-MiniLM-L6-v2\"\n",
            "",
            "needs a table [embedder.remote]",
        ),
        ("name = \"tokenizer.json\"", "name = \"tokeniser.json\"", "files lacks `tokenizer.json`"),
        ("[routes.embed.text-embedding]", "[routes.embed.cached]", "reserved"),
        ("lease_ms = 30_000", "lease_ms = 10", "jobs: lease_ms"),
        ("normalize = true", "normalize = true\nprecision = \"f8\"", "f8"),
        (
            "kind = \"clip\"",
            "kind = \"clip\"\nprecision = \"bf16\"",
            "precision: kind `clip` has only \"f32\"",
        ),
        ("kind = \"clip\"", "kind = \"clip\"\nsimilarity_weight = 0.0", "similarity_weight must be above 0"),
        (
            "kind = \"remote\"",
            "kind = \"remote\"\nprecision = \"int8\"",
            "precision: kind `remote` has only \"f32\"",
        ),
    ] {
        let text = with_server();
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from}");
        let error = refusal(&changed);
        assert!(error.contains(told), "{told}: {error}");
    }
}

/// The built-in catalog with this in the place of its answer routes.
fn with_answers(routes: &str) -> String {
    let start = BUILT_IN.find("[routes.answer]").unwrap();
    let end = BUILT_IN.find("# ── The embedded PostgreSQL").unwrap();
    format!("{}{routes}\n{}", &BUILT_IN[..start], &BUILT_IN[end..])
}

#[test]
fn answer_routes_and_rules_are_read() {
    let text = with_answers(
        r#"
        [routes.answer]
        policy = "weighted"
        backends = ["openai", "smollm2-135m-instruct"]
        weights = { openai = 3 }
        hedge_after_ms = 800
        [routes.answer_by_name.private]
        backends = ["smollm2-135m-instruct"]
        [[routes.answer_rules]]
        route = "private"
        collections = ["salaries"]
        languages = ["deu", "cmn"]
        "#,
    );
    let routes = Catalog::parse(&text, "models.toml").unwrap().routes;
    assert_eq!((routes.answer.policy, routes.answer.deadline_ms), (Policy::Weighted, 120_000));
    assert_eq!(routes.answer_rules[0].languages[0], Language::of("Was kostet ein Fahrrad?").unwrap());
}

#[test]
fn answer_routes_that_cannot_be_meant_are_refused_by_their_key() {
    let answer = |rest: &str| format!("[routes.answer]\nbackends = [\"openai\"]\n{rest}");
    let named = |rest: &str| answer(&format!("[routes.answer_by_name.x]\nbackends = [\"openai\"]\n{rest}"));
    let rule = |rest: &str| named(&format!("[[routes.answer_rules]]\nroute = \"x\"\n{rest}"));
    for (routes, told) in [
        ("[routes.answer]\nbackends = [\"gpt\"]".to_owned(), "routes.answer: unknown model `gpt`"),
        ("[routes.answer]\nbackends = [\"openai\", \"openai\"]".to_owned(), "`openai` twice"),
        (answer("[routes.answer_by_name.x]\nbackends = []"), "routes.answer_by_name.x: backends is empty"),
        (answer("[routes.answer_by_name.openai]\nbackends = [\"openai\"]"), "an llm has this name"),
        (answer("[routes.answer_by_name.default]\nbackends = [\"openai\"]"), "stands for routes.answer"),
        (answer("policy = \"weighted\"\nweights = { gpt = 1 }"), "routes.answer.weights: `gpt` is none"),
        (answer("weights = { openai = 1 }"), "only policy = \"weighted\""),
        (answer("policy = \"weighted\"\nweights = { openai = 0 }"), "one must be more than 0"),
        (answer("policy = \"random\""), "random"),
        (answer("deadline_ms = 0"), "must be at least 1"),
        (rule(""), "routes.answer_rules[0]: it has no condition"),
        (rule("languages = [\"de\"]"), "`de` is no language"),
        (rule("min_chars = 9\nmax_chars = 8"), "min_chars is more"),
        (rule("route2 = \"y\""), "route2"),
        (answer("[[routes.answer_rules]]\nroute = \"y\"\nmin_chars = 9"), "no routes.answer_by_name.y"),
    ] {
        let error = refusal(&with_answers(&routes));
        assert!(error.contains(told), "{told}: {error}");
    }
    for (settings, told) in [
        ("timeout_ms = 5", "timeout_ms"),
        ("timeouts = { whole_ms = 0 }", "llm `openai`: timeouts"),
        ("limits = { max_concurrent = 0 }", "max_concurrent"),
        ("breaker = { error_ratio = 1.5 }", "error_ratio"),
        ("price = { input_per_million = -1, output_per_million = 0 }", "price"),
    ] {
        let text =
            BUILT_IN.replace("context_tokens = 128_000", &format!("context_tokens = 128_000\n{settings}"));
        let error = refusal(&text);
        assert!(error.contains(told), "{told}: {error}");
    }
}

/// Of a build for CPUs.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_refused_where_it_cannot_be_used() {
    for kind in ["bert", "clip"] {
        let kind = format!("kind = \"{kind}\"\n");
        let error = refusal(&BUILT_IN.replacen(&kind, &format!("{kind}device = \"cuda\"\n"), 1));
        let wanted = if kind.contains("clip") { "is for kind `bert`" } else { "--features cuda" };
        assert!(error.contains("device `cuda`") && error.contains(wanted), "{error}");
    }
}

fn with_database(variables: &[(&str, &str)]) -> Result<Config, String> {
    let get = |name: &str| {
        let found = variables.iter().chain(&[("RAGWAY_HOME", "home")]).find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Config::from_variables(None, &get).map_err(|error| error.to_string())
}

#[test]
fn a_database_may_have_several_servers_and_a_replica() {
    let several = "postgresql://ragway:secret@one:6432,two/ragway?target_session_attrs=read-write";
    let config = with_database(&[
        ("DATABASE_URL", several),
        ("DATABASE_REPLICA_URL", "postgresql://r:secret@three/ragway"),
    ]);
    let config = config.unwrap();
    let DatabaseSettings::External { replica_url, .. } = &config.database else { panic!("{config}") };
    assert!(replica_url.is_some());
    let shown = config.to_string();
    assert!(shown.contains("DATABASE_URL    postgresql://ragway:***@one:6432,two:5432/ragway\n"), "{shown}");
    assert!(shown.contains("DATABASE_REPLICA_URL postgresql://r:***@three/ragway\n"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    let refused =
        with_database(&[("DATABASE_REPLICA_URL", "postgresql://r:secret@three/ragway")]).unwrap_err();
    assert!(
        refused.contains("DATABASE_REPLICA_URL") && refused.contains("DATABASE_URL, which is not set"),
        "{refused}"
    );
    let refused = with_database(&[
        ("DATABASE_URL", several),
        ("DATABASE_REPLICA_URL", "postgresql://r:secret@three/ragway?target_session_attrs=some"),
    ]);
    let refused = refused.unwrap_err();
    assert!(refused.contains("DATABASE_REPLICA_URL") && !refused.contains("secret"), "{refused}");
}

#[test]
fn questions_are_reranked_only_where_there_is_a_reranker() {
    let error = refusal(&BUILT_IN.replacen("\nrerank = false", "\nrerank = true", 1));
    assert!(error.contains("ask.rerank: there is no reranker"), "{error}");
    let error = refusal(&BUILT_IN.replacen("candidates = 50 ", "candidates = 201 ", 1));
    assert!(error.contains("search.rerank: candidates must be between 1 and 200"), "{error}");
}

#[test]
fn trusted_proxies_are_addresses_and_networks() {
    let with = |value: &str| {
        let get = |name: &str| match name {
            "TRUSTED_PROXIES" => Some(value.to_owned()),
            "RAGWAY_HOME" => Some("home".to_owned()),
            _ => None,
        };
        Config::from_variables(None, &get)
    };
    let networks = with("10.0.0.0/8, 192.0.2.7,,::1").unwrap().trusted_proxies;
    let shown: Vec<String> = networks.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
    assert!(with("").unwrap().trusted_proxies.is_empty());
    for wrong in ["nginx", "10.0.0.0/33", "10.0.0.1:80", "*"] {
        let refused = with(wrong).unwrap_err().to_string();
        assert!(refused.starts_with("TRUSTED_PROXIES: ") && refused.contains(wrong), "{refused}");
    }
}
